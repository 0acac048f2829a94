"""`relay accounts`: list the portal's accounts, and print links for sign-up and new passwords."""

import asyncio
from datetime import UTC, datetime

import click

from services.cli.instance import database_of, settings_of
from services.cli.options import Invocation, Text, command, group
from services.cli.output import print_json, print_table
from services.cli.projects import transaction
from shared.accounts import service
from shared.accounts.queries import accounts as queries
from shared.errors import AccountNotFound
from shared.infra.settings import DatabaseUrl, Settings

accounts = group("accounts", "List and invite users of the portal.")


async def invitation_link(settings: Settings, note: str) -> str:
    """Create a link with which one person creates an account."""
    async with transaction(settings.database) as conn:
        secret = await service.invite(conn, service.COMMAND_LINE, "sign_up", datetime.now(UTC), note=note)
    return _link(settings, secret)


async def password_link(settings: Settings, email: str) -> str:
    """Create a link that sets a new password for an account. Raises ``AccountNotFound``."""
    async with transaction(settings.database) as conn:
        found = await queries.credentials(conn, email)
        if found is None:
            raise AccountNotFound(email)
        account_id = found.account.account_id
        now = datetime.now(UTC)
        secret = await service.invite(
            conn, service.COMMAND_LINE, "password", now, account_id=account_id, note=found.account.email
        )
    return _link(settings, secret)


async def list_accounts(database: DatabaseUrl) -> list[dict[str, object]]:
    """List every account in the form that `--json` prints."""
    async with transaction(database) as conn:
        found = await queries.list_accounts(conn)
    return [
        {
            "accountId": account.account_id,
            "email": account.email,
            "name": account.name,
            "isAdmin": account.is_admin,
            "createdAt": account.created_at,
            "disabledAt": account.disabled_at,
        }
        for account in found
    ]


def _link(settings: Settings, secret: str) -> str:
    return f"{settings.relay_api_url}/invitations/{secret}"


@command("list", "List the portal's accounts.", of=accounts, json=True)
def listing(invocation: Invocation) -> int:
    found = asyncio.run(list_accounts(database_of(invocation)))
    if invocation.json:
        print_json(found)
    elif not found:
        print("No account yet. The first person who opens the portal creates the administrator's account.")
    else:
        rows = [
            [
                str(account["email"]),
                "administrator" if account["isAdmin"] else "",
                "disabled" if account["disabledAt"] else "",
                str(account["name"]),
            ]
            for account in found
        ]
        print_table(["E-MAIL", "ROLE", "STATE", "NAME"], rows)
    return 0


@command("invite", "Print a link with which one person creates an account.", of=accounts, json=True)
@click.option("--note", type=Text(), default="", show_default=False, help="Name of the person who gets the link.")
def invite(invocation: Invocation, note: str) -> int:
    return _print_link(invocation, asyncio.run(invitation_link(settings_of(invocation), note)), "for seven days")


@command(
    "password",
    "Print a link with which the holder of an account sets a new password.",
    more="EMAIL is the address of the account.",
    of=accounts,
    json=True,
)
@click.argument("email", metavar="EMAIL", type=Text())
def password(invocation: Invocation, email: str) -> int:
    return _print_link(invocation, asyncio.run(password_link(settings_of(invocation), email)), "for a day")


def _print_link(invocation: Invocation, link: str, lifetime: str) -> int:
    if invocation.json:
        print_json({"link": link})
    else:
        print(f"{link}\nIt works once, {lifetime}.")
    return 0
