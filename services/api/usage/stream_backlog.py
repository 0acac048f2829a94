"""Find the time up to which usage is complete (`asOf`)."""

import asyncio
import math
from typing import Final, NamedTuple

from shared.infra.redis import event_stream

# Requests within this time share one read of Redis. So `asOf` can be this much earlier than possible, but never too late.
SHARE_MS: Final = 100
# Requests share a failed read for longer.
AWAY_MS: Final = 1000
# The longest that a request waits for a read, from the start of the read. A read of Redis may take two seconds to fail.
PATIENCE_MS: Final = 250


class Seen(NamedTuple):
    """A read of the streams. ``oldest_ms``: receipt of the oldest event that waits there.

    None if none waits.
    """

    answered: bool
    oldest_ms: int | None


_UNANSWERED: Final = Seen(False, None)


class Look(NamedTuple):
    """A read that began at ``began_ms``.

    Events acknowledged before were in Redis then, or in Postgres already.
    """

    began_ms: int
    seen: "asyncio.Task[Seen]"


class StreamBacklog:
    """The events that wait in Redis to be folded."""

    def __init__(self, redis: event_stream.Redis) -> None:
        self._redis = redis
        self._last: Look | None = None

    async def since(self, now_ms: int) -> tuple[int, Seen]:
        """Read the streams, or share the last read. Returns when the read began (unix ms), and its result.

        Call this before reading Postgres. Events folded in between are counted but not yet reflected in `asOf`.
        """
        look = self._last
        if look is None or not 0 <= now_ms - look.began_ms < _lasts_ms(look):
            look = self._last = Look(now_ms, asyncio.create_task(self._look()))
        if not look.seen.done():
            # Other requests wait for it too, so it continues if this request ends.
            left_ms = PATIENCE_MS - (now_ms - look.began_ms)
            await asyncio.wait((look.seen,), timeout=max(0, left_ms) / 1000)
        return (look.began_ms, look.seen.result()) if look.seen.done() else (now_ms, _UNANSWERED)

    async def _look(self) -> Seen:
        try:
            return Seen(True, await event_stream.oldest_unfolded_ms(self._redis))
        except event_stream.UNAVAILABLE:
            return _UNANSWERED


def _lasts_ms(look: Look) -> float:
    """Return how long requests share a read, in milliseconds."""
    if not look.seen.done():
        return math.inf
    if look.seen.cancelled() or look.seen.exception() is not None:
        return 0
    return SHARE_MS if look.seen.result().answered else AWAY_MS


def as_of_ms(began_ms: int, seen: Seen, oldest_in_inbox_ms: int | None, complete_ms: int | None) -> int:
    """Return the time (unix ms) before which every acknowledged event is counted.

    Holds for numbers read from Postgres after a read of Redis that began at ``began_ms``.
    """
    candidates = [began_ms, seen.oldest_ms, oldest_in_inbox_ms]
    if not seen.answered:
        # The content of Redis is unknown. The last sweep recorded up to which time all partitions were folded.
        candidates.append(complete_ms or 0)
    return min(candidate for candidate in candidates if candidate is not None)
