"""The way in for API keys: who asks, whether they ask too often, and that the key was used. Both the hot routes below the
framework and the framework's handlers come through here."""

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from services.api.auth import KeyStore
from services.api.last_used import LastUsed
from services.api.limits import Headers, Limits
from shared.clock import Clock
from shared.errors import RateLimited
from shared.models.projects import KeyRecord

log = logging.getLogger("relay.api")

# Where what passes the gate leaves headers for the answer, whichever it becomes.
ANSWER_HEADERS = "relay_headers"
# The count that a request has not waited for yet.
_COUNTING = "relay_counting"


class Gate:
    """Lets requests with a working secret key through. Everything raises ``Unauthenticated``, ``PublishableKeyRefused``,
    ``RateLimited`` or ``StoreUnavailable``."""

    def __init__(self, keys: KeyStore, limits: Limits, last_used: LastUsed, clock: Clock) -> None:
        self._keys, self._limits, self._last_used, self._clock = keys, limits, last_used, clock

    def admit_known_token(self, scope: Any) -> KeyRecord | None:
        """The key of a request that mints, if this process knows it: no I/O. None says nothing, and counts nothing."""
        now_ms = self._clock.now_ms()
        key = self._keys.known(_authorization(scope), now_ms)
        if key is not None:
            self._count_token(scope, key, now_ms)
        return key

    async def admit_token(self, scope: Any) -> KeyRecord:
        """The key of a request that mints."""
        now_ms = self._clock.now_ms()
        key = await self._key(scope, now_ms)
        self._count_token(scope, key, now_ms)
        return key

    def _count_token(self, scope: Any, key: KeyRecord, now_ms: int) -> None:
        self._last_used.seen[key.key_id] = now_ms
        scope[ANSWER_HEADERS] = self._limits.of_token(key, now_ms)

    async def admit(self, scope: Any, *, only_reads: bool = False) -> KeyRecord:
        """The key of any other request. ``only_reads``: its handler changes nothing, and calls ``settle`` before it answers.
        Far from its limits it is counted meanwhile: Redis syncs the count to disk, which takes as long as reading usage."""
        now_ms = self._clock.now_ms()
        key = await self._key(scope, now_ms)
        self._last_used.seen[key.key_id] = now_ms
        if only_reads and self._limits.are_far(key, now_ms):
            scope[_COUNTING] = counting = asyncio.create_task(self._limits.of_request(key))
            counting.add_done_callback(_noticed)
        else:
            scope[ANSWER_HEADERS] = await self._limits.of_request(key)
        return key

    async def _key(self, scope: Any, now_ms: int) -> KeyRecord:
        authorization = _authorization(scope)
        key = self._keys.known(authorization, now_ms)
        if key is None:
            client = scope.get("client")
            key = await self._keys.authenticate(authorization, None if client is None else client[0])
        return key

    def changed(self, *, key_ids: Collection[str] = (), project_id: str | None = None) -> None:
        """After a transaction of this process that revoked or rotated keys, or archived a project."""
        self._keys.forget(key_ids=key_ids, project_id=project_id)


async def settle(scope: Any) -> None:
    """Waits for the count of a request that was let in meanwhile. Raises ``RateLimited``: what was read is not answered."""
    counting = scope.pop(_COUNTING, None)
    if counting is not None:
        scope[ANSWER_HEADERS] = await counting


async def headers_of_answer(scope: Any) -> Headers:
    """For whoever sends an answer, also an error that came before its request was counted."""
    try:
        await settle(scope)
    except RateLimited as error:
        return error.limit_headers
    except Exception:
        log.exception("a request could not be counted")
    headers: Headers = scope.get(ANSWER_HEADERS, ())
    return headers


def _noticed(counting: "asyncio.Task[Headers]") -> None:
    """Nobody may wait for it any more."""
    if not counting.cancelled():
        counting.exception()


def _authorization(scope: Any) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode("latin-1"))
    return None
