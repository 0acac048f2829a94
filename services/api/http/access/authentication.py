"""Authenticate API requests: find the key, apply the rate limits and record that the key was used.

Both the hot routes in front of the framework and the framework's handlers use it.
"""

from collections.abc import Collection
from typing import Any

from services.api.http.access.key_store import KeyStore
from services.api.http.access.last_used import LastUsed
from services.api.http.access.limits import Headers, Limits
from shared.infra.clock import Clock
from shared.models.projects import KeyRecord

# The entry of the ASGI scope that holds headers of the answer, for successes and errors.
ANSWER_HEADERS = "relay_headers"


class Authentication:
    """Admits requests with a usable secret key.

    Every method that admits raises ``Unauthenticated``, ``PublishableKeyRefused``, ``RateLimited`` or ``StoreUnavailable``.
    """

    def __init__(self, keys: KeyStore, limits: Limits, last_used: LastUsed, clock: Clock) -> None:
        self._keys, self._limits, self._last_used, self._clock = keys, limits, last_used, clock

    def admit_known_token(self, scope: Any) -> KeyRecord | None:
        """Return the key of a token request if it is in this process's cache, and count the request.

        Does no I/O. If it returns None, nothing was counted.
        """
        now_ms = self._clock.now_ms()
        key = self._keys.known(_authorization(scope), now_ms)
        if key is not None:
            self._count_token(scope, key, now_ms)
        return key

    def knows_token_key(self, scope: Any) -> bool:
        """Return whether ``admit_known_token`` would return a key. Counts nothing against the limits."""
        return self._keys.known(_authorization(scope), self._clock.now_ms()) is not None

    async def token_key(self, scope: Any) -> KeyRecord:
        """Return the key of a token request without counting the request."""
        return await self._key(scope, self._clock.now_ms())

    def count_token(self, scope: Any, key: KeyRecord) -> None:
        self._count_token(scope, key, self._clock.now_ms())

    def _count_token(self, scope: Any, key: KeyRecord, now_ms: int) -> None:
        self._last_used.seen[key.key_id] = now_ms
        scope[ANSWER_HEADERS] = self._limits.of_token(key, now_ms)

    async def admit(self, scope: Any) -> KeyRecord:
        """Return the key of any other request, and count the request."""
        now_ms = self._clock.now_ms()
        key = await self._key(scope, now_ms)
        self._last_used.seen[key.key_id] = now_ms
        scope[ANSWER_HEADERS] = self._limits.of_request(key, now_ms)
        return key

    async def _key(self, scope: Any, now_ms: int) -> KeyRecord:
        authorization = _authorization(scope)
        key = self._keys.known(authorization, now_ms)
        if key is None:
            client = scope.get("client")
            key = await self._keys.authenticate(authorization, None if client is None else client[0])
        return key

    def changed(self, *, key_ids: Collection[str] = (), project_id: str | None = None) -> None:
        """Drop keys from the cache after this process revoked or rotated them, or archived their project."""
        self._keys.forget(key_ids=key_ids, project_id=project_id)


def headers_of_answer(scope: Any) -> Headers:
    """Return the rate-limit headers of an answer. Empty if the request was not counted."""
    headers: Headers = scope.get(ANSWER_HEADERS, ())
    return headers


def _authorization(scope: Any) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode("latin-1"))
    return None
