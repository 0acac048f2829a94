"""How many requests a minute keys and projects may make (docs/limits.md).

Tokens are counted in this process and exchanged with Redis behind the requests (``rate_windows``), all other requests exactly,
in Redis. Where Redis is away nobody is refused for it. Live and test mode of a project count apart, so that a load test takes
nothing from the customers. Headers as in draft-ietf-httpapi-ratelimit-headers-06.
"""

import asyncio
import logging
from functools import lru_cache
from typing import Final

from redis import asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.api.rate_counter import RateCounter
from services.api.rate_windows import UNAVAILABLE, RateWindows, Verdict
from shared import metrics
from shared.clock import Clock
from shared.errors import RateLimited
from shared.models.projects import KeyRecord
from shared.settings import RateLimits

log = logging.getLogger("relay.api")

Headers = tuple[tuple[bytes, bytes], ...]
_TIMEOUT_S: Final = 0.5
# After a failure Redis is left alone for a while: no request waits for a time-out that the one before it had already.
_PAUSE_MS: Final = 1000
_REMEMBERED: Final = 50_000
# How long it holds that a key was far from its limits.
_FAR_MS: Final = 10_000


def connect_limits_redis(url: str) -> "redis_asyncio.Redis":
    """A client of its own that gives up early: requests wait for it."""
    client: redis_asyncio.Redis = redis_asyncio.from_url(
        url, protocol=2, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 1)
    )
    return client


class Limits:
    """Counts requests and refuses those above the limits. ``run`` must be running for tokens to be counted together."""

    def __init__(self, rates: RateLimits, redis: "redis_asyncio.Redis", clock: Clock) -> None:
        self._rates, self._clock = rates, clock
        self._windows = RateWindows(redis, clock)
        self._counter = RateCounter(redis)
        # What the keys' limits are called, put together once.
        self._of_keys: dict[str, tuple[tuple[str, int], ...]] = {}
        # When they last had more than half of their requests left.
        self._far_ms: dict[str, int] = {}
        self._pause_until_ms = 0
        self._counting = True

    async def run(self) -> None:
        await self._windows.run()

    def of_token(self, key: KeyRecord, now_ms: int) -> Headers:
        """Counts a token; returns the answer's headers. Raises ``RateLimited``."""
        limits = self._of_keys.get(key.key_id)
        if limits is None:
            limits = self._token_limits(key)
        return _headers(self._windows.take(limits, now_ms)) if limits else ()

    def _token_limits(self, key: KeyRecord) -> "tuple[tuple[str, int], ...]":
        named = (
            (key.key_id, self._rates.tokens_per_key),
            (f"{key.mode}:{key.project_id}", self._rates.tokens_per_project),
        )
        if len(self._of_keys) >= _REMEMBERED:
            self._of_keys.clear()
        limits = self._of_keys[key.key_id] = tuple(limit for limit in named if limit[1])
        return limits

    def are_far(self, key: KeyRecord, now_ms: int) -> bool:
        """Whether the next request of a key will hardly be refused: a moment ago it had most of its requests left."""
        return 0 <= now_ms - self._far_ms.get(key.key_id, 0) < _FAR_MS

    async def of_request(self, key: KeyRecord) -> Headers:
        """Counts any other request; returns the answer's headers. Raises ``RateLimited``."""
        limits = [
            limit
            for limit in (
                (f"api:{key.key_id}", self._rates.api_per_key),
                (f"api:{key.mode}:{key.project_id}", self._rates.api_per_project),
            )
            if limit[1]
        ]
        if not limits:
            return ()
        now_ms = self._clock.now_ms()
        if 0 < self._pause_until_ms - now_ms <= _PAUSE_MS:  # longer only by a clock that was set back
            metrics.rate_limits.labels("unchecked").inc()
            return ()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                verdict = await self._counter.take(limits, now_ms)
        except UNAVAILABLE as error:
            self._failed(error)
            return ()
        if not self._counting:
            self._counting = True
            log.warning("Redis is back: requests are limited again")
        if verdict.left * 2 > verdict.limit:
            if len(self._far_ms) >= _REMEMBERED:
                self._far_ms.clear()
            self._far_ms[key.key_id] = now_ms
        else:
            self._far_ms.pop(key.key_id, None)
        return _headers(verdict)

    def _failed(self, error: Exception) -> None:
        metrics.rate_limits.labels("unchecked").inc()
        self._pause_until_ms = self._clock.now_ms() + _PAUSE_MS  # the time-out is over by now
        if self._counting:
            self._counting = False
            log.warning("Redis is away (%s): requests are not limited", type(error).__name__)


@lru_cache(maxsize=64)
def _of_limit(limit: int) -> Headers:
    text = b"%d" % limit
    return (b"ratelimit-limit", text), (b"ratelimit-policy", text + b";w=60")


def _headers(verdict: Verdict) -> Headers:
    headers = (
        *_of_limit(verdict.limit),
        (b"ratelimit-remaining", b"%d" % verdict.left),
        (b"ratelimit-reset", b"%d" % verdict.reset_s),
    )
    if verdict.wait_s:
        metrics.rate_limits.labels("limited").inc()
        raise RateLimited(
            f"more than {verdict.limit} requests in a minute; try again in {verdict.wait_s} s", verdict.wait_s, headers
        )
    return headers
