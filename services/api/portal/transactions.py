"""Open the transactions of a portal request: snapshots for pages, checked rights for changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar.exceptions import PermissionDeniedException

from services.api.portal.page_request import PageRequest
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.infra.postgres.pool import Connection, Pool, borrowed, in_transaction
from shared.models.accounts import at_least


class Transactions:
    """Opens transactions for handlers that wait for a password check or for LiveKit in between.

    All other handlers use ``conn`` (dependencies.py).
    """

    def __init__(self, pool: Pool, page: PageRequest) -> None:
        self._pool, self._page = pool, page

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Open a read-only transaction with one snapshot for the whole page."""
        async with borrowed(self._pool) as conn, in_transaction(conn, snapshot=True):
            yield conn

    @asynccontextmanager
    async def writing(self, *, takes_rights: bool = False) -> AsyncIterator[Connection]:
        """Open a transaction that commits when the block ends without an exception.

        It checks the rights of the request again, and they cannot change until it ends. ``takes_rights``: the block removes
        rights of an account. Raises ``PermissionDeniedException``.
        """
        async with borrowed(self._pool) as conn, in_transaction(conn):
            await account_queries.lock_rights(conn, exclusive=takes_rights)
            if self._page.session is not None and not await self._still_allowed(conn):
                raise PermissionDeniedException("your rights have changed; reload the page and try again")
            yield conn

    async def _still_allowed(self, conn: Connection) -> bool:
        page = self._page
        if page.session is None or page.account is None:
            return False
        found = await account_queries.session_by_digest(conn, page.session.digest, page.now)
        if found is None:
            return False
        account, _ = found
        if account.is_admin != page.account.is_admin:
            return False
        if page.project is None:
            return True
        project_id = page.project.project_id
        project = await memberships.project_access(conn, project_id, account.account_id, account.is_admin)
        return project is not None and at_least(project.role, page.needed_role)
