"""Live pages: a stream that says when something of a project changed, whereupon the page fetches its live parts anew.

Each stream looks once a second; streams of one project share a look. A stream ends after some minutes, and when whoever
opened it may no longer see the project: the browser comes back by itself, through the gate.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
from litestar.response import ServerSentEventMessage

from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.accounts.service import secret_digest
from shared.infra.clock import from_ms
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed
from shared.models.scope import Scope
from shared.usage.queries import overview as queries

if TYPE_CHECKING:  # a visit holds the portal, which holds this
    from services.api.portal.visit import Visit

LOOK_EVERY_S = 0.9
RECHECK_EVERY_S = 10
LONGEST_S = 300
# Minutes of open sessions grow without any event.
_AT_LEAST_EVERY_S = 20
STREAMS_PER_ACCOUNT = 12
_TIMEOUT_S = 5.0
RETRY_MS = 2000
_NOTHING_NEW = ServerSentEventMessage(data=None, comment="")


class LiveUpdates:
    """Shared by all streams of the process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._seen: dict[Scope, tuple[float, str]] = {}
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._watching: Counter[Scope] = Counter()
        self._of_account: Counter[str] = Counter()

    async def open(self, visit: "Visit") -> AsyncIterator[ServerSentEventMessage] | None:
        """A stream of server-sent events: ``changed`` whenever the page is out of date, else comments. None if the account has
        as many streams as it may have."""
        stream = self._counted(visit)
        # Started here, so that it counts before the next request is looked at. Once started, it stops counting when it is
        # closed or collected, even if nobody ever reads it.
        return stream if await anext(stream, None) is not None else None

    async def _counted(self, visit: "Visit") -> AsyncGenerator[ServerSentEventMessage, None]:
        scope, account_id = visit.scope, visit.account.account_id
        if self._of_account[account_id] >= STREAMS_PER_ACCOUNT:
            return
        self._watching[scope] += 1
        self._of_account[account_id] += 1
        try:
            yield _NOTHING_NEW
            async for message in self._messages(visit, scope):
                yield message
        finally:
            self._of_account[account_id] -= 1
            self._watching[scope] -= 1
            if not self._watching[scope]:
                for shared in (self._seen, self._locks, self._watching):
                    shared.pop(scope, None)

    async def _messages(self, visit: "Visit", scope: Scope) -> AsyncIterator[ServerSentEventMessage]:
        started = told = checked = time.monotonic()
        known = await self._look(scope)
        yield ServerSentEventMessage(data=None, retry=RETRY_MS)
        while time.monotonic() - started < LONGEST_S and not visit.portal.context.drain.started:
            await asyncio.sleep(LOOK_EVERY_S)
            if time.monotonic() - checked > RECHECK_EVERY_S:
                checked = time.monotonic()
                if not await self._still_allowed(visit):
                    return
            seen = await self._look(scope)
            if seen is not None and (seen != known or time.monotonic() - told > _AT_LEAST_EVERY_S):
                known, told = seen, time.monotonic()
                yield ServerSentEventMessage(event="changed", data="1")
            else:
                yield _NOTHING_NEW

    async def _look(self, scope: Scope) -> str | None:
        """The project's fingerprint, not older than a look; None while Postgres is away."""
        async with self._locks.setdefault(scope, asyncio.Lock()):
            at, seen = self._seen.get(scope, (0.0, ""))
            if time.monotonic() - at < LOOK_EVERY_S:
                return seen
            try:
                async with borrowed(self._pool, _TIMEOUT_S) as conn:
                    seen = await queries.fingerprint(conn, scope)
            except (*UNAVAILABLE, asyncpg.PostgresError):
                return None
            self._seen[scope] = (time.monotonic(), seen)
            return seen

    async def _still_allowed(self, visit: "Visit") -> bool:
        try:
            async with borrowed(self._pool, _TIMEOUT_S) as conn:
                found = await account_queries.session_by_digest(
                    conn, secret_digest(visit.browser), from_ms(visit.portal.clock.now_ms())
                )
                if found is None:
                    return False
                account, _ = found
                project_id = visit.project.project_id
                return (
                    await memberships.project_access(conn, project_id, account.account_id, account.is_admin) is not None
                )
        except (*UNAVAILABLE, asyncpg.PostgresError):
            return True
