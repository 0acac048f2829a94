"""`relay accounts`: links for people who cannot get one in the portal, such as the only administrator without a password."""

from datetime import UTC, datetime

from services.cli.projects import transaction
from shared import accounts
from shared.errors import AccountNotFound
from shared.queries import accounts as queries
from shared.settings import DatabaseUrl, Settings


async def any_account(database: DatabaseUrl) -> bool:
    """Whether somebody has an account: false until the portal was opened for the first time."""
    async with transaction(database) as conn:
        return await queries.any_account(conn)


async def invite(settings: Settings, note: str) -> str:
    """A link by which one person makes an account."""
    async with transaction(settings.database) as conn:
        secret = await accounts.invite(conn, accounts.COMMAND_LINE, "sign_up", datetime.now(UTC), note=note)
    return _link(settings, secret)


async def password_link(settings: Settings, email: str) -> str:
    """A link by which the holder of an account sets a new password. Raises ``AccountNotFound``."""
    async with transaction(settings.database) as conn:
        found = await queries.credentials(conn, email)
        if found is None:
            raise AccountNotFound(email)
        account_id = found.account.account_id
        now = datetime.now(UTC)
        secret = await accounts.invite(
            conn, accounts.COMMAND_LINE, "password", now, account_id=account_id, note=found.account.email
        )
    return _link(settings, secret)


async def list_accounts(database: DatabaseUrl) -> list[dict[str, object]]:
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
