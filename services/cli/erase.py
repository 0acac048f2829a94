"""`relay data erase`."""

from services.cli.projects import transaction
from shared.erasure import Erased, erase_identity
from shared.settings import DatabaseUrl


async def erase(database: DatabaseUrl, project_id: str, identity: str) -> Erased:
    """All of it or nothing. Raises ``ProjectNotFound``, ``IdentityConnected``."""
    async with transaction(database) as conn:
        return await erase_identity(conn, project_id, identity)


def printed(erased: Erased, identity: str) -> str:
    if not erased.sessions + erased.events + erased.set_aside:
        return f"nothing that is stored in this project names {identity!r}; nothing was changed"
    return (
        f"{erased.sessions} sessions, {erased.events} events and {erased.set_aside} set-aside events now name"
        f" {erased.pseudonym}; totals are unchanged"
    )
