"""Stream to live pages when something in their project has changed.

The page then loads its live parts again. A stream polls Postgres once a second; the streams of one project share the result. A
stream ends after five minutes, and when the account may no longer see the project. The browser then connects again and is
admitted or refused.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

import asyncpg
from litestar.response import ServerSentEventMessage

from services.api.http.serving.server import Drain
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.infra.clock import Clock, from_ms
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed
from shared.models.scope import Scope
from shared.usage.queries import overview as queries

LOOK_EVERY_S = 0.9
RECHECK_EVERY_S = 10
LONGEST_S = 300
# Reload at least this often, because the minutes of open sessions grow without any event.
_AT_LEAST_EVERY_S = 20
STREAMS_PER_ACCOUNT = 12
_TIMEOUT_S = 5.0
RETRY_MS = 2000
_NOTHING_NEW = ServerSentEventMessage(data=None, comment="")


class Watcher(NamedTuple):
    """The account that watches a project, and the session (SHA-256 of its id) that it is signed in with."""

    scope: Scope
    account_id: str
    session_digest: bytes


class LiveUpdates:
    """All streams of the process."""

    def __init__(self, pool: Pool, clock: Clock, drain: Drain) -> None:
        self._clock, self._drain = clock, drain
        self._pool = pool
        self._seen: dict[Scope, tuple[float, str]] = {}
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._watching: Counter[Scope] = Counter()
        self._of_account: Counter[str] = Counter()

    async def open(self, watcher: Watcher) -> AsyncIterator[ServerSentEventMessage] | None:
        """Open a stream. It sends ``changed`` when the page is out of date, and comments in between.

        None if the account has too many streams.
        """
        stream = self._counted(watcher)
        # Started here, so that it counts before the next request is handled. When a started stream is closed or garbage
        # collected, it no longer counts, even if it was never read.
        return stream if await anext(stream, None) is not None else None

    async def _counted(self, watcher: Watcher) -> AsyncGenerator[ServerSentEventMessage, None]:
        scope, account_id = watcher.scope, watcher.account_id
        if self._of_account[account_id] >= STREAMS_PER_ACCOUNT:
            return
        self._watching[scope] += 1
        self._of_account[account_id] += 1
        try:
            yield _NOTHING_NEW
            async for message in self._messages(watcher):
                yield message
        finally:
            self._of_account[account_id] -= 1
            self._watching[scope] -= 1
            if not self._watching[scope]:
                for shared in (self._seen, self._locks, self._watching):
                    shared.pop(scope, None)

    async def _messages(self, watcher: Watcher) -> AsyncIterator[ServerSentEventMessage]:
        scope = watcher.scope
        started = reported = checked = time.monotonic()
        known = await self._look(scope)
        yield ServerSentEventMessage(data=None, retry=RETRY_MS)
        while time.monotonic() - started < LONGEST_S and not self._drain.started:
            await asyncio.sleep(LOOK_EVERY_S)
            if time.monotonic() - checked > RECHECK_EVERY_S:
                checked = time.monotonic()
                if not await self._still_allowed(watcher):
                    return
            seen = await self._look(scope)
            if seen is not None and (seen != known or time.monotonic() - reported > _AT_LEAST_EVERY_S):
                known, reported = seen, time.monotonic()
                yield ServerSentEventMessage(event="changed", data="1")
            else:
                yield _NOTHING_NEW

    async def _look(self, scope: Scope) -> str | None:
        """Return the project's fingerprint, at most ``LOOK_EVERY_S`` old. None if Postgres is unreachable."""
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

    async def _still_allowed(self, watcher: Watcher) -> bool:
        try:
            async with borrowed(self._pool, _TIMEOUT_S) as conn:
                now = from_ms(self._clock.now_ms())
                found = await account_queries.session_by_digest(conn, watcher.session_digest, now)
                if found is None:
                    return False
                account, _ = found
                project = await memberships.project_access(
                    conn, watcher.scope.project_id, account.account_id, account.is_admin
                )
                return project is not None
        except (*UNAVAILABLE, asyncpg.PostgresError):
            return True
