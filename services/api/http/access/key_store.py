"""Who is asking: API keys, found by their SHA-256 in a cache that a revocation empties at once.

A change of a key or of its project is announced by Postgres in the transaction that makes it (``NOTIFY``, migration
0001). The cache is trusted only while this process can prove that it hears: a heartbeat on the listening connection not
older than ``TRUST_MS``. Else every lookup asks Postgres, and where Postgres cannot be reached at all, a key seen before works
on for ``OUTAGE_MS``.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Any, NamedTuple

import asyncpg

from services.api.http.access.unknown_key_limit import UnknownKeyLimit
from shared.errors import PublishableKeyRefused, StoreUnavailable, Unauthenticated
from shared.infra import metrics
from shared.infra.clock import Clock
from shared.infra.ids import key_digest, parse_key, resembles_key
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed, connect
from shared.infra.settings import DatabaseUrl
from shared.keys import queries
from shared.models.projects import KeyRecord

log = logging.getLogger("relay.api")

TRUST_MS = 900
HEARTBEAT_S = 0.3
OUTAGE_MS = 5 * 60_000
LOOKUP_TIMEOUT_S = 3.0
# After a lookup failed, known keys are not looked up for this long: otherwise each mint would wait for another time-out. Less
# than a second, because a key may be revoked as soon as Postgres is back.
PAUSE_MS = 500
# Of the pool's ten connections: a flood of unknown keys leaves the rest to those who are known.
LOOKUPS_AT_ONCE = 4
# Requests with the same key share one query if it began less than this ago.
SHARE_MS = 200
_CACHE_SIZE = 50_000


class _Cached:
    """A key as Postgres had it at ``checked_ms``; ``current`` until we may have missed an announcement."""

    __slots__ = ("checked_ms", "current", "record")

    def __init__(self, record: KeyRecord, checked_ms: int) -> None:
        self.record, self.checked_ms, self.current = record, checked_ms, True


class _UnderWay(NamedTuple):
    """A lookup that has not been answered, and when it began: after how many announcements, and unix ms."""

    task: "asyncio.Task[KeyRecord | None]"
    changes: int
    since_ms: int


class KeyStore:
    """Finds and checks API keys.

    The cache is trusted only while ``run`` runs. ``unknown_keys``: how many keys that do not exist an address may try in
    a minute; 0 is no limit.
    """

    def __init__(self, database: DatabaseUrl, pool: Pool, clock: Clock, unknown_keys: int = 0) -> None:
        self._database, self._pool, self._clock = database, pool, clock
        self._unknown_keys = UnknownKeyLimit(unknown_keys)
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._under_way: dict[bytes, _UnderWay] = {}
        self._cache: dict[bytes, _Cached] = {}
        self._heard_ms = self._away_until_ms = 0
        self._deaf = False  # and the log says so
        self._cache_hits = metrics.key_lookups["cache"]
        # Counts announcements: a lookup that one overtook must not put its older answer into the cache.
        self.changes_heard = 0

    async def run(self) -> None:
        """Listens for changes until cancelled, connecting again whenever the connection fails."""
        while True:
            try:
                await self._listen()
            except UNAVAILABLE as error:
                if not self._deaf:
                    log.warning("key changes cannot be heard (%s); every key is looked up", type(error).__name__)
                self._deaf = True
            except Exception:  # a defect here must not switch the cache off silently
                self._deaf = True
                log.exception("listening for key changes failed")
            self._heard_ms = 0
            await asyncio.sleep(HEARTBEAT_S)

    async def _listen(self) -> None:
        conn = await connect(self._database, "relay api keys")
        try:
            conn.add_termination_listener(self._deafened)
            await conn.add_listener(queries.KEY_CHANGES, self._forget)
            # What was announced before we listened is not known to us.
            for cached in self._cache.values():
                cached.current = False
            self.changes_heard += 1
            while True:
                asked_ms = self._clock.now_ms()
                await queries.prove_connected(conn, TRUST_MS / 1000)
                self._heard_ms = asked_ms
                if self._deaf:
                    log.warning("key changes can be heard again")
                self._deaf = False
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            conn.terminate()

    def _deafened(self, _connection: Any) -> None:
        """The connection is gone, and we need not wait for the heartbeat to find out."""
        self._heard_ms = 0

    def _forget(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self.changes_heard += 1
        self._cache.pop(bytes.fromhex(str(payload)), None)

    def forget(self, *, key_ids: Collection[str] = (), project_id: str | None = None) -> None:
        """Drop keys that this process changed, so that its next request sees the change before the announcement arrives."""
        self.changes_heard += 1
        changed = [
            digest
            for digest, cached in self._cache.items()
            if cached.record.key_id in key_ids or cached.record.project_id == project_id
        ]
        for digest in changed:
            del self._cache[digest]

    def known(self, authorization: str | None, now_ms: int) -> KeyRecord | None:
        """The working secret key in an Authorization header if the cache has it, without I/O.

        Nearly every request has such a key. None does not mean that the key is wrong: ``authenticate`` looks the key up or
        says what is wrong with it.
        """
        if authorization is None or authorization[:7] != "Bearer " or not 0 <= now_ms - self._heard_ms < TRUST_MS:
            return None
        cached = self._cache.get(key_digest(authorization[7:]))
        if cached is None or not cached.current or not _works(cached.record, now_ms):
            return None
        self._cache_hits.count += 1
        return cached.record

    async def authenticate(self, authorization: str | None, address: str | None = None) -> KeyRecord:
        """The secret key in an Authorization header that came from ``address``.

        Raises ``Unauthenticated``, ``PublishableKeyRefused``, ``RateLimited`` or ``StoreUnavailable``. No secrets are
        compared here, so the time it takes shows nothing: a key is found by its SHA-256, and a client that could choose the
        hash could choose the key.
        """
        if not authorization:
            raise Unauthenticated("missing_key", "send your API key as `Authorization: Bearer sk_…`")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("malformed_key", "the Authorization header must be `Bearer` and an API key")
        now_ms = self._clock.now_ms()
        key = key.strip()
        digest = key_digest(key)
        cached = self._cache.get(digest)
        # Not older than zero either: after a clock was set back, silence would be trusted for as long.
        if cached is not None and cached.current and 0 <= now_ms - self._heard_ms < TRUST_MS:
            self._cache_hits.count += 1
            record = cached.record
        else:
            if parse_key(key) is None:
                raise _no_key(key)
            record = await self._look_up(digest, cached, address, now_ms)
        if _works(record, now_ms):
            return record
        if record.archived:
            raise Unauthenticated("archived_project", "the project of this API key has been archived")
        if record.revoked_ms is not None:
            raise Unauthenticated("revoked_key", "this API key has been revoked")
        if record.type == "secret":
            raise Unauthenticated("expired_key", "this API key has expired")
        raise PublishableKeyRefused("a publishable key only names a project; use a secret key (sk_…) from your server")

    async def _look_up(self, digest: bytes, cached: _Cached | None, address: str | None, now_ms: int) -> KeyRecord:
        if cached is None:
            if self._unknown_keys.is_unknown(digest, now_ms):
                raise _unknown()
            self._unknown_keys.check(address, now_ms)  # before it waits for a look-up; that one counts
        bridged = cached is not None and 0 <= now_ms - cached.checked_ms < OUTAGE_MS
        if cached is not None and bridged and 0 <= self._away_until_ms - now_ms <= PAUSE_MS:
            metrics.key_lookups["outage"].count += 1
            return cached.record
        changes = self.changes_heard
        try:
            record = await self._fetch(digest, now_ms, address if cached is None else None)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            self._away_until_ms = self._clock.now_ms() + PAUSE_MS
            if cached is not None and bridged:
                metrics.key_lookups["outage"].count += 1
                return cached.record
            raise StoreUnavailable("API keys cannot be checked at the moment; try again shortly") from error
        if record is None:
            raise _unknown()
        if changes == self.changes_heard:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.pop(next(iter(self._cache)))
            self._cache[digest] = _Cached(record, now_ms)
        return record

    async def _fetch(self, digest: bytes, now_ms: int, address: str | None) -> KeyRecord | None:
        """Asks Postgres for a key.

        Requests with the same key share one query if it began less than ``SHARE_MS`` ago and no change was announced since:
        an answer from before a revocation must not reach a request from after it. ``address`` is the client's if the limit of
        unknown keys applies.
        """
        under_way = self._under_way.get(digest)
        if (
            under_way is None
            or under_way.changes != self.changes_heard
            or not 0 <= now_ms - under_way.since_ms < SHARE_MS
        ):
            task = asyncio.create_task(self._query(digest, address))
            under_way = self._under_way[digest] = _UnderWay(task, self.changes_heard, now_ms)
            task.add_done_callback(lambda _: self._answered(digest, task))
        # Shielded: a client that goes away must not take the answer from the others.
        return await asyncio.shield(under_way.task)

    def _answered(self, digest: bytes, task: "asyncio.Task[KeyRecord | None]") -> None:
        under_way = self._under_way.get(digest)
        if under_way is not None and under_way.task is task:
            del self._under_way[digest]
        if not task.cancelled():
            task.exception()  # nobody may be waiting any more

    async def _query(self, digest: bytes, address: str | None) -> KeyRecord | None:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S), self._lookups:
            reserved = self._unknown_keys.reserve(address, self._clock.now_ms())
            exists = True
            try:
                async with borrowed(self._pool, LOOKUP_TIMEOUT_S) as conn:
                    record = await queries.key_by_digest(conn, digest)
                exists = record is not None
            finally:
                if exists and reserved is not None:  # also where Postgres could not say
                    reserved.give_back()
        metrics.key_lookups["database"].count += 1
        if record is None:
            self._unknown_keys.note(digest, self._clock.now_ms())
        return record


def _works(key: KeyRecord, now_ms: int) -> bool:
    return (
        key.revoked_ms is None
        and key.type == "secret"
        and not key.archived
        and (key.expires_ms is None or now_ms < key.expires_ms)
    )


def _unknown() -> Unauthenticated:
    return Unauthenticated("unknown_key", "no such API key exists here")


def _no_key(text: str) -> Unauthenticated:
    """Says what is wrong with a text whose form or checksum is not a key's. Nothing was looked up for it."""
    if resembles_key(text):
        return Unauthenticated("mistyped_key", "this API key is mistyped or cut off: its checksum is wrong")
    return Unauthenticated("malformed_key", "this is no Relay API key; one looks like sk_live_… or sk_test_…")
