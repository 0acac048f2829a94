"""Counts requests in this process and exchanges the counts with Redis in the background.

A window is a minute of the wall clock, the same in every process. The use of a sliding minute is estimated: this window's
count, plus the part of the previous window that the minute still covers. The count of this process is current; the counts of
the others are as of the last exchange with Redis, every ``EXCHANGE_S``. So within one process a limit is exact. Over several
processes a count takes two exchanges at most to reach another process: **at most the requests of 2 x EXCHANGE_S and the round
trips pass above the limit**, and never fewer than the limit. While Redis is away, each process applies the limit to its own
count.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from redis import asyncio as redis_asyncio

from shared.infra import metrics
from shared.infra.clock import MINUTE_MS, Clock
from shared.infra.redis.event_stream import UNAVAILABLE

log = logging.getLogger("relay.api")

EXCHANGE_S: Final = 0.25
WINDOW_MS: Final = MINUTE_MS
_TIMEOUT_S = 1.0
# Windows exchanged in one pipeline: three commands each, and other requests of this process wait while it is put together.
_AT_ONCE = 500
_FORGET_EVERY_MS = 2 * WINDOW_MS


class Window:
    """What one key or one project used."""

    __slots__ = ("_flying", "_index", "_known", "_late", "_previous", "_unchecked", "_unsent", "limit", "name")

    def __init__(self, name: str, limit: int, index: int) -> None:
        self.name, self.limit = name, limit
        self._index = index
        # Of this window: what Redis knows, what is on its way there, what is not.
        self._known = self._flying = self._unsent = 0
        # Of the window before: what was used in all, and what of it Redis was not told.
        self._previous = self._late = 0
        # Of what was not sent: what has been reported as unchecked already.
        self._unchecked = 0

    def left(self, now_ms: int) -> float:
        """How many more requests fit in."""
        index, elapsed_ms = divmod(now_ms, WINDOW_MS)
        if index != self._index:
            self._roll(index)
        used = self._known + self._flying + self._unsent
        return self.limit - used - self._previous * (1 - elapsed_ms / WINDOW_MS)

    def _roll(self, index: int) -> None:
        follows = index == self._index + 1
        self._previous = self._known + self._flying + self._unsent if follows else 0
        self._late = self._unsent if follows else 0
        self._known = self._flying = self._unsent = self._unchecked = 0
        self._index = index

    def take(self) -> None:
        """Counts one request, right after ``left``."""
        self._unsent += 1

    def give_back(self) -> None:
        """Takes back one request of this window. Only for windows that are never sent to Redis."""
        self._unsent = max(0, self._unsent - 1)

    def wait_s(self, now_ms: int) -> int:
        """Whole seconds until a request fits in again, if nobody makes any meanwhile."""
        used = self._known + self._flying + self._unsent
        return wait_s(used, self._previous, self.limit, now_ms % WINDOW_MS)

    def to_send(self) -> tuple[int, int, int]:
        """The window's number, what Redis does not know yet of it, and of the one before."""
        self._flying, self._unsent = self._unsent, 0
        return self._index, self._flying, self._late

    def sent(self, index: int, known: int, previous: int) -> None:
        """Redis has it, and says what all processes used."""
        if index == self._index:
            self._known, self._previous, self._flying, self._late, self._unchecked = known, previous, 0, 0, 0

    def not_sent(self, index: int, count: int) -> int:
        """Redis does not have it. Returns how many of ``count`` were not known to be unchecked before."""
        if index != self._index:
            return 0
        new, self._unchecked = count - self._unchecked, count
        self._unsent += self._flying
        self._flying = 0
        return new

    def is_over(self, now_ms: int) -> bool:
        """Whether nothing of it counts any more."""
        return now_ms // WINDOW_MS > self._index + 1


def wait_s(used: int, previous: int, limit: int, elapsed_ms: int) -> int:
    """Whole seconds until a request fits in.

    ``used``: requests in this window, of which ``elapsed_ms`` are over. ``previous``: requests in the window before.
    """
    until_ms = _covered_until_ms(previous, limit - 1 - used)
    if until_ms is None:  # not in this window; the next one begins with all of this as its last
        until_ms = WINDOW_MS + (_covered_until_ms(used, limit - 1) or 0)
    return max(1, math.ceil((until_ms - elapsed_ms) / 1000))


def _covered_until_ms(previous: int, room: float) -> float | None:
    """The time within a window from which the rest of ``previous`` fits into ``room``; None if it never does."""
    if room < 0:
        return None
    return WINDOW_MS * (1 - room / previous) if previous > room else 0


class Verdict(NamedTuple):
    """The outcome for a request.

    ``limit``: the limit that is nearest to being reached; ``left``: the requests left of it. ``reset_s``: whole seconds
    until its window ends. ``wait_s``: whole seconds to wait if the request was refused, otherwise 0.
    """

    limit: int
    left: int
    reset_s: int
    wait_s: int


class RateWindows:
    """The windows of this process. ``run`` exchanges them with Redis until it is cancelled."""

    def __init__(self, redis: "redis_asyncio.Redis", clock: Clock) -> None:
        self._redis, self._clock = redis, clock
        self._windows: dict[str, Window] = {}
        self._changed: set[Window] = set()
        self._forgot_ms = 0
        self._shared = True

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, limits: Sequence[tuple[str, int]], now_ms: int) -> Verdict:
        """Counts a request against limits of (name, requests a minute), at least one, if it fits into all of them."""
        windows = []
        least = math.inf
        for name, limit in limits:
            window = self._windows.get(name)
            if window is None:
                window = self._windows[name] = Window(name, limit, now_ms // WINDOW_MS)
            windows.append(window)
            left = window.left(now_ms)
            if left < least:
                least, tight = left, window
        self._changed.update(windows)
        reset_s = 60 - now_ms % WINDOW_MS // 1000
        if least < 1:
            return Verdict(tight.limit, 0, reset_s, tight.wait_s(now_ms))
        for window in windows:
            window.take()
        return Verdict(tight.limit, int(least) - 1, reset_s, 0)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EXCHANGE_S)
            try:
                await self.exchange()
            except Exception:  # a defect here must not end the counting for good
                log.exception("exchanging rate limits failed")

    async def exchange(self) -> None:
        """Tells Redis what this process counted and learns what all did. Fails with a line in the log."""
        now_ms = self._clock.now_ms()
        if now_ms - self._forgot_ms > _FORGET_EVERY_MS:
            self._forgot_ms = now_ms
            self._windows = {name: window for name, window in self._windows.items() if not window.is_over(now_ms)}
        changed, self._changed = list(self._changed), set()
        for start in range(0, len(changed), _AT_ONCE):
            await self._exchange(changed[start : start + _AT_ONCE])

    async def _exchange(self, windows: list[Window]) -> None:
        told = [(window, *window.to_send()) for window in windows]
        pipeline = self._redis.pipeline(transaction=False)
        for window, index, count, late in told:
            for at, amount in ((index - 1, late), (index, count)):
                pipeline.incrby(redis_key(window.name, at), amount)
                pipeline.pexpire(redis_key(window.name, at), 3 * WINDOW_MS)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answers = await pipeline.execute()
        except UNAVAILABLE as error:
            self._failed(error)
            for window, index, count, _ in told:
                metrics.rate_limits.labels("unchecked").inc(window.not_sent(index, count))
            # They are exchanged again though nobody may use them meanwhile.
            self._changed.update(windows)
            return
        if not self._shared:
            self._shared = True
            log.warning("Redis is back: rate limits count over all processes again")
        for number, (window, index, _, _) in enumerate(told):
            previous, _, known, _ = answers[4 * number : 4 * number + 4]
            window.sent(index, known, previous)

    def _failed(self, error: Exception) -> None:
        if self._shared:
            self._shared = False
            log.warning(
                "Redis is away (%s): each process applies the rate limits to its own count", type(error).__name__
            )


def redis_key(name: str, index: int) -> str:
    return f"relay:limit:{name}:{index}"
