"""Look up API keys by their SHA-256 in a per-process cache that revocations invalidate.

Postgres announces a change of a key or of its project with the transaction that makes it (``NOTIFY``, migration 0001). The
cache is used only while the listening connection works: its last heartbeat must not be older than ``TRUST_MS``. Otherwise
every lookup queries Postgres. If Postgres cannot be reached at all, cached keys remain valid for ``OUTAGE_MS``.
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
# After a failed lookup, cached keys are not looked up for this long: otherwise every token request would wait for a time-out.
# Less than a second, because a key may be revoked as soon as Postgres is back.
PAUSE_MS = 500
# Of the pool's ten connections. The others stay free for known keys during a flood of unknown ones.
LOOKUPS_AT_ONCE = 4
# Requests with the same key share one query if it began less than this ago.
SHARE_MS = 200
_CACHE_SIZE = 50_000


class _Cached:
    """A key as read from Postgres at ``checked_ms`` (unix ms).

    ``current`` becomes False when an announced change may have been missed.
    """

    __slots__ = ("checked_ms", "current", "record")

    def __init__(self, record: KeyRecord, checked_ms: int) -> None:
        self.record, self.checked_ms, self.current = record, checked_ms, True


class _Lookup(NamedTuple):
    """A running query, with the number of announcements seen and the time (unix ms) when it began."""

    task: "asyncio.Task[KeyRecord | None]"
    changes: int
    since_ms: int


class KeyStore:
    """Finds and checks API keys.

    The cache is used only while ``run`` runs. ``unknown_keys``: how many keys that do not exist an address may try in a
    minute; 0 is no limit.
    """

    def __init__(self, database: DatabaseUrl, pool: Pool, clock: Clock, unknown_keys: int = 0) -> None:
        self._database, self._pool, self._clock = database, pool, clock
        self._unknown_keys = UnknownKeyLimit(unknown_keys)
        self._lookup_slots = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._lookups: dict[bytes, _Lookup] = {}
        self._cache: dict[bytes, _Cached] = {}
        # Unix ms of the last heartbeat of the listening connection; 0 while there is no connection.
        self._heartbeat_ms = 0
        # Until then (unix ms) cached keys are not looked up, because a lookup failed.
        self._pause_until_ms = 0
        self._is_loss_logged = False
        self._cache_hits = metrics.key_lookups["cache"]
        # Counts announcements. If one arrives during a lookup, the answer may be outdated and is not cached.
        self.changes_seen = 0

    async def run(self) -> None:
        """Listen for changes until cancelled, connecting again whenever the connection fails."""
        while True:
            try:
                await self._listen()
            except UNAVAILABLE as error:
                if not self._is_loss_logged:
                    log.warning(
                        "not listening for key changes (%s): every key is looked up in Postgres", type(error).__name__
                    )
                self._is_loss_logged = True
            except Exception:  # a defect here must not switch the cache off silently
                self._is_loss_logged = True
                log.exception("listening for key changes failed")
            self._heartbeat_ms = 0
            await asyncio.sleep(HEARTBEAT_S)

    async def _listen(self) -> None:
        conn = await connect(self._database, "relay api keys")
        try:
            conn.add_termination_listener(self._on_disconnect)
            await conn.add_listener(queries.KEY_CHANGES, self._on_key_changed)
            # Changes that were announced before this connection listened are unknown.
            for cached in self._cache.values():
                cached.current = False
            self.changes_seen += 1
            while True:
                sent_ms = self._clock.now_ms()
                await queries.prove_connected(conn, TRUST_MS / 1000)
                self._heartbeat_ms = sent_ms
                if self._is_loss_logged:
                    log.warning("listening for key changes again")
                self._is_loss_logged = False
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            conn.terminate()

    def _on_disconnect(self, _connection: Any) -> None:
        """Stop using the cache at once instead of when the heartbeat is overdue."""
        self._heartbeat_ms = 0

    def _on_key_changed(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self.changes_seen += 1
        self._cache.pop(bytes.fromhex(str(payload)), None)

    def forget(self, *, key_ids: Collection[str] = (), project_id: str | None = None) -> None:
        """Drop keys that this process changed, without waiting for the announcement of the change."""
        self.changes_seen += 1
        changed = [
            digest
            for digest, cached in self._cache.items()
            if cached.record.key_id in key_ids or cached.record.project_id == project_id
        ]
        for digest in changed:
            del self._cache[digest]

    def known(self, authorization: str | None, now_ms: int) -> KeyRecord | None:
        """Return the usable secret key in an Authorization header if it is in the cache. Does no I/O.

        Nearly every request has such a key. None does not mean that the key is wrong: ``authenticate`` looks it up or raises
        what is wrong with it.
        """
        if authorization is None or authorization[:7] != "Bearer " or not 0 <= now_ms - self._heartbeat_ms < TRUST_MS:
            return None
        cached = self._cache.get(key_digest(authorization[7:]))
        if cached is None or not cached.current or not _is_usable(cached.record, now_ms):
            return None
        self._cache_hits.count += 1
        return cached.record

    async def authenticate(self, authorization: str | None, address: str | None = None) -> KeyRecord:
        """Return the secret key in an Authorization header that came from ``address``.

        Raises ``Unauthenticated``, ``PublishableKeyRefused``, ``RateLimited`` or ``StoreUnavailable``. Timing attacks gain
        nothing here, because no secrets are compared: a key is found by its SHA-256, and a client that can choose the hash
        already has the key.
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
        # A negative age means that the clock was set back. The heartbeat would then look fresh for too long.
        if cached is not None and cached.current and 0 <= now_ms - self._heartbeat_ms < TRUST_MS:
            self._cache_hits.count += 1
            record = cached.record
        else:
            if parse_key(key) is None:
                raise _not_a_key_error(key)
            record = await self._look_up(digest, cached, address, now_ms)
        if _is_usable(record, now_ms):
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
                raise _unknown_key_error()
            self._unknown_keys.check(address, now_ms)  # refuses before waiting for a slot; the lookup itself counts
        valid_in_outage = cached is not None and 0 <= now_ms - cached.checked_ms < OUTAGE_MS
        if cached is not None and valid_in_outage and 0 <= self._pause_until_ms - now_ms <= PAUSE_MS:
            metrics.key_lookups["outage"].count += 1
            return cached.record
        changes = self.changes_seen
        try:
            record = await self._fetch(digest, now_ms, address if cached is None else None)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            self._pause_until_ms = self._clock.now_ms() + PAUSE_MS
            if cached is not None and valid_in_outage:
                metrics.key_lookups["outage"].count += 1
                return cached.record
            raise StoreUnavailable("API keys cannot be checked at the moment; try again shortly") from error
        if record is None:
            raise _unknown_key_error()
        if changes == self.changes_seen:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.pop(next(iter(self._cache)))
            self._cache[digest] = _Cached(record, now_ms)
        return record

    async def _fetch(self, digest: bytes, now_ms: int, address: str | None) -> KeyRecord | None:
        """Read a key from Postgres.

        Requests with the same key share one query if it began less than ``SHARE_MS`` ago and no change was announced since:
        an answer from before a revocation must not reach a request from after it. ``address`` is the client's if the limit of
        unknown keys applies.
        """
        lookup = self._lookups.get(digest)
        if lookup is None or lookup.changes != self.changes_seen or not 0 <= now_ms - lookup.since_ms < SHARE_MS:
            task = asyncio.create_task(self._query(digest, address))
            lookup = self._lookups[digest] = _Lookup(task, self.changes_seen, now_ms)
            task.add_done_callback(lambda _: self._on_lookup_done(digest, task))
        # Shielded: if one client disconnects, the others still get the answer.
        return await asyncio.shield(lookup.task)

    def _on_lookup_done(self, digest: bytes, task: "asyncio.Task[KeyRecord | None]") -> None:
        lookup = self._lookups.get(digest)
        if lookup is not None and lookup.task is task:
            del self._lookups[digest]
        if not task.cancelled():
            task.exception()  # marks the error as seen, even if no request waits any more

    async def _query(self, digest: bytes, address: str | None) -> KeyRecord | None:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S), self._lookup_slots:
            reserved = self._unknown_keys.reserve(address, self._clock.now_ms())
            exists = True
            try:
                async with borrowed(self._pool, LOOKUP_TIMEOUT_S) as conn:
                    record = await queries.key_by_digest(conn, digest)
                exists = record is not None
            finally:
                if exists and reserved is not None:  # also if the query failed
                    reserved.give_back()
        metrics.key_lookups["database"].count += 1
        if record is None:
            self._unknown_keys.note(digest, self._clock.now_ms())
        return record


def _is_usable(key: KeyRecord, now_ms: int) -> bool:
    return (
        key.revoked_ms is None
        and key.type == "secret"
        and not key.archived
        and (key.expires_ms is None or now_ms < key.expires_ms)
    )


def _unknown_key_error() -> Unauthenticated:
    return Unauthenticated("unknown_key", "no such API key exists here")


def _not_a_key_error(text: str) -> Unauthenticated:
    """Return the error for a text whose form or checksum is not a key's. Nothing is looked up for it."""
    if resembles_key(text):
        return Unauthenticated("mistyped_key", "this API key is mistyped or cut off: its checksum is wrong")
    return Unauthenticated("malformed_key", "this is no Relay API key; one looks like sk_live_… or sk_test_…")
