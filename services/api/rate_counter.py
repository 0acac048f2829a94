"""Requests counted in Redis, exactly, over all processes: a limit of the key and one of its project in one round trip.

Windows as those of tokens (``rate_windows``): a minute of the wall clock, and the part of the last one that a sliding minute
still covers.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis import asyncio as redis_asyncio

from services.api.rate_windows import WINDOW_MS, Verdict, redis_key, wait_s

# KEYS: this window and the last one of each limit. ARGV: the part of the last one that still counts, what a window is kept
# (ms), and each limit. Counts nothing unless the request fits into all of them. Answers with (this window, the last one) of
# each limit up to the first that it does not fit into.
_TAKE: Final = """
local found = {}
for i = 1, #KEYS / 2 do
  local used = tonumber(redis.call('GET', KEYS[2 * i - 1]) or 0)
  local last = tonumber(redis.call('GET', KEYS[2 * i]) or 0)
  found[2 * i - 1], found[2 * i] = used, last
  if tonumber(ARGV[i + 2]) - used - last * tonumber(ARGV[1]) < 1 then
    return found
  end
end
for i = 1, #KEYS / 2 do
  if redis.call('INCR', KEYS[2 * i - 1]) == 1 then
    redis.call('PEXPIRE', KEYS[2 * i - 1], ARGV[2])
  end
end
return found
"""


class RateCounter:
    def __init__(self, redis: "redis_asyncio.Redis") -> None:
        self._take: Any = redis.register_script(_TAKE)

    async def take(self, limits: Sequence[tuple[str, int]], now_ms: int) -> Verdict:
        """Counts a request against limits of (name, requests a minute), at least one. Raises what Redis' client raises."""
        index, elapsed_ms = divmod(now_ms, WINDOW_MS)
        covered = 1 - elapsed_ms / WINDOW_MS
        keys = [redis_key(name, at) for name, _ in limits for at in (index, index - 1)]
        found = await self._take(keys, [covered, 2 * WINDOW_MS, *(limit for _, limit in limits)])
        reset_s = 60 - elapsed_ms // 1000
        nearest: Verdict | None = None
        for (_, limit), used, last in zip(limits, found[::2], found[1::2], strict=False):
            left = limit - used - last * covered
            if left < 1:
                return Verdict(limit, 0, reset_s, wait_s(used, last, limit, elapsed_ms))
            if nearest is None or left - 1 < nearest.left:
                nearest = Verdict(limit, int(left) - 1, reset_s, 0)
        assert nearest is not None  # noqa: S101  # there is at least one limit
        return nearest
