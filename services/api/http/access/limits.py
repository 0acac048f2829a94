"""Apply the rate limits of keys and projects, in requests a minute (docs/limits.md).

``RateWindows`` counts every request in this process and exchanges the counts with Redis in the background, so no request waits
for Redis. Live and test mode of a project count separately, so that a load test does not use up the live limit. The headers
follow draft-ietf-httpapi-ratelimit-headers-06.
"""

from functools import lru_cache
from typing import Final

from redis import asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.api.http.access.rate_windows import RateWindows, Verdict
from shared.errors import RateLimited
from shared.infra import metrics
from shared.infra.clock import Clock
from shared.infra.settings import RateLimits
from shared.models.projects import KeyRecord

Headers = tuple[tuple[bytes, bytes], ...]
# The limits of one key: (name of the window, requests a minute).
_KeyLimits = tuple[tuple[str, int], ...]
_TIMEOUT_S: Final = 0.5
# One exchange runs at a time. The second connection replaces one that is being closed.
_CONNECTIONS: Final = 2
_REMEMBERED: Final = 50_000


def connect_limits_redis(url: str) -> "redis_asyncio.Redis":
    """Return the Redis client of the rate limits. A caller waits for a free connection instead of failing."""
    pool = redis_asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_TIMEOUT_S,
        protocol=2,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )
    return redis_asyncio.Redis.from_pool(pool)


class Limits:
    """Counts requests and refuses those above the limits.

    While ``run`` runs, all processes count together.
    """

    def __init__(self, rates: RateLimits, redis: "redis_asyncio.Redis", clock: Clock) -> None:
        self._rates = rates
        self._windows = RateWindows(redis, clock)
        # Built once for each key, so that the hot path does not format names.
        self._token_limits: dict[str, _KeyLimits] = {}
        self._api_limits: dict[str, _KeyLimits] = {}

    async def run(self) -> None:
        await self._windows.run()

    async def flush(self) -> None:
        """Send the counts that Redis does not have yet. Call it after ``run`` has ended."""
        await self._windows.exchange()

    def of_token(self, key: KeyRecord, now_ms: int) -> Headers:
        """Count a token request. Return the answer's headers. Raises ``RateLimited``."""
        limits = self._token_limits.get(key.key_id)
        if limits is None:
            rates = self._rates.tokens_per_key, self._rates.tokens_per_project
            limits = _remember(self._token_limits, key, "", *rates)
        return _headers(self._windows.take(limits, now_ms)) if limits else ()

    def of_request(self, key: KeyRecord, now_ms: int) -> Headers:
        """Count any other request. Return the answer's headers. Raises ``RateLimited``."""
        limits = self._api_limits.get(key.key_id)
        if limits is None:
            limits = _remember(self._api_limits, key, "api:", self._rates.api_per_key, self._rates.api_per_project)
        return _headers(self._windows.take(limits, now_ms)) if limits else ()


def _remember(cache: dict[str, _KeyLimits], key: KeyRecord, prefix: str, per_key: int, per_project: int) -> _KeyLimits:
    named = (f"{prefix}{key.key_id}", per_key), (f"{prefix}{key.mode}:{key.project_id}", per_project)
    if len(cache) >= _REMEMBERED:
        cache.clear()
    limits = cache[key.key_id] = tuple(limit for limit in named if limit[1])
    return limits


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
