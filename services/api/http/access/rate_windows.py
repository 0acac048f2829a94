"""Count requests in this process and exchange the counts with Redis in the background.

A window is a minute of the wall clock, the same in every process. The use of a sliding minute is estimated: this window's
count, plus the part of the previous window that the minute still covers. The count of this process is always current. The
counts of other processes are as old as the last exchange with Redis (every ``EXCHANGE_S``). So a limit is exact within one
process. Over several processes a count reaches the others within two exchanges: **at most the requests of 2 x EXCHANGE_S and
the round trips pass above the limit**, and never fewer than the limit. While Redis is unreachable, each process applies the
limit to its own count.
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
# Windows exchanged in one pipeline. Requests of this process wait while a pipeline is built.
_AT_ONCE = 500
_FORGET_EVERY_MS = 2 * WINDOW_MS


class Window:
    """The requests of one key or one project in this minute and the one before."""

    __slots__ = ("_in_flight", "_index", "_known", "_late", "_previous", "_unchecked", "_unsent", "limit", "name")

    def __init__(self, name: str, limit: int, index: int) -> None:
        self.name, self.limit = name, limit
        self._index = index
        # Requests of this window: counted in Redis, being sent to Redis, and not sent yet.
        self._known = self._in_flight = self._unsent = 0
        # Requests of the previous window: all, and those not sent to Redis.
        self._previous = self._late = 0
        # The part of the unsent requests that is already in the metric "unchecked".
        self._unchecked = 0

    def left(self, now_ms: int) -> float:
        """Return how many more requests the limit allows."""
        index, elapsed_ms = divmod(now_ms, WINDOW_MS)
        if index != self._index:
            self._roll(index)
        used = self._known + self._in_flight + self._unsent
        return self.limit - used - self._previous * (1 - elapsed_ms / WINDOW_MS)

    def _roll(self, index: int) -> None:
        is_next = index == self._index + 1
        self._previous = self._known + self._in_flight + self._unsent if is_next else 0
        self._late = self._unsent if is_next else 0
        self._known = self._in_flight = self._unsent = self._unchecked = 0
        self._index = index

    def take(self) -> None:
        """Count one request. Call ``left`` right before."""
        self._unsent += 1

    def give_back(self) -> None:
        """Uncount one request of this window. Only for windows that are never sent to Redis."""
        self._unsent = max(0, self._unsent - 1)

    def wait_s(self, now_ms: int) -> int:
        """Return the whole seconds until a request is allowed again, if there are none meanwhile."""
        used = self._known + self._in_flight + self._unsent
        return wait_s(used, self._previous, self.limit, now_ms % WINDOW_MS)

    def to_send(self) -> tuple[int, int, int]:
        """Return the window's number and the counts to send: of this window and of the previous one."""
        self._in_flight, self._unsent = self._unsent, 0
        return self._index, self._in_flight, self._late

    def sent(self, index: int, known: int, previous: int) -> None:
        """Take the counts of all processes from Redis, which now include this one's."""
        if index == self._index:
            self._known, self._previous, self._in_flight, self._late, self._unchecked = known, previous, 0, 0, 0

    def not_sent(self, index: int, count: int) -> int:
        """Keep ``count`` requests that did not reach Redis. Return how many of them are newly unchecked."""
        if index != self._index:
            return 0
        new, self._unchecked = count - self._unchecked, count
        self._unsent += self._in_flight
        self._in_flight = 0
        return new

    def is_over(self, now_ms: int) -> bool:
        """Return whether the window no longer counts towards the limit."""
        return now_ms // WINDOW_MS > self._index + 1


def wait_s(used: int, previous: int, limit: int, elapsed_ms: int) -> int:
    """Return the whole seconds until a request is allowed.

    ``used``: requests in this window, which began ``elapsed_ms`` ago. ``previous``: requests in the window before.
    """
    free_ms = _free_from_ms(previous, limit - 1 - used)
    if free_ms is None:  # not in this window; in the next one, ``used`` is the previous window's count
        free_ms = WINDOW_MS + (_free_from_ms(used, limit - 1) or 0)
    return max(1, math.ceil((free_ms - elapsed_ms) / 1000))


def _free_from_ms(previous: int, room: float) -> float | None:
    """Return the time within a window from which the counted part of ``previous`` fits into ``room``.

    None if it never fits.
    """
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
    """The rate windows of this process. ``run`` exchanges them with Redis until it is cancelled."""

    def __init__(self, redis: "redis_asyncio.Redis", clock: Clock) -> None:
        self._redis, self._clock = redis, clock
        self._windows: dict[str, Window] = {}
        self._changed: set[Window] = set()
        self._forgot_ms = 0
        self._shared = True

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, limits: Sequence[tuple[str, int]], now_ms: int) -> Verdict:
        """Count a request if all limits allow it. ``limits``: (name, requests a minute), at least one."""
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
            except Exception:  # a defect here must not end the task
                log.exception("exchanging rate limits failed")

    async def exchange(self) -> None:
        """Send this process's counts to Redis and receive those of all processes. A failure is logged."""
        now_ms = self._clock.now_ms()
        if now_ms - self._forgot_ms > _FORGET_EVERY_MS:
            self._forgot_ms = now_ms
            self._windows = {name: window for name, window in self._windows.items() if not window.is_over(now_ms)}
        changed, self._changed = list(self._changed), set()
        for start in range(0, len(changed), _AT_ONCE):
            await self._exchange(changed[start : start + _AT_ONCE])

    async def _exchange(self, windows: list[Window]) -> None:
        to_send = [(window, *window.to_send()) for window in windows]
        pipeline = self._redis.pipeline(transaction=False)
        for window, index, count, late in to_send:
            for at, amount in ((index - 1, late), (index, count)):
                pipeline.incrby(redis_key(window.name, at), amount)
                pipeline.pexpire(redis_key(window.name, at), 3 * WINDOW_MS)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answers = await pipeline.execute()
        except UNAVAILABLE as error:
            self._failed(error)
            for window, index, count, _ in to_send:
                metrics.rate_limits.labels("unchecked").inc(window.not_sent(index, count))
            # Send them again with the next exchange, even without further requests.
            self._changed.update(windows)
            return
        if not self._shared:
            self._shared = True
            log.warning("Redis is back: rate limits count over all processes again")
        for number, (window, index, _, _) in enumerate(to_send):
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
