"""`relay data`: erase personal data."""

import asyncio

import click

from services.cli.instance import database_of
from services.cli.options import Invocation, Text, command, group
from services.cli.output import print_json
from services.cli.projects import transaction
from shared.infra.settings import DatabaseUrl
from shared.ledger.erasure import Erased, erase_identity

data = group("data", "Erase personal data.")


async def erase_stored(database: DatabaseUrl, project_id: str, identity: str) -> Erased:
    """Replace one identity in all stored data, in one transaction.

    Raises ``ProjectNotFound`` and ``IdentityConnected``.
    """
    async with transaction(database) as conn:
        return await erase_identity(conn, project_id, identity)


def describe(erased: Erased, identity: str) -> str:
    """Say in one line what was erased."""
    if not erased.sessions + erased.events + erased.set_aside:
        return f"nothing stored in this project has the identity {identity!r}; nothing was changed"
    return (
        f"{erased.sessions} sessions, {erased.events} events and {erased.set_aside} set-aside events now have the identity"
        f" {erased.pseudonym}; totals are unchanged"
    )


@command("erase", "Replace one identity in all stored data. Totals stay.", of=data, json=True)
@click.option("--project", type=Text(), required=True, metavar="ID", help="Project; see `relay projects list`.")
@click.option("--identity", type=Text(), required=True, metavar="IDENTITY", help="Identity, as in the tokens.")
def erase(invocation: Invocation, project: str, identity: str) -> int:
    erased = asyncio.run(erase_stored(database_of(invocation), project, identity))
    if invocation.json:
        print_json(erased)
    else:
        print(describe(erased, identity))
    return 0
