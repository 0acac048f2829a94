"""Up to when usage is complete: `asOf`."""

import asyncio
import math
from typing import Final, NamedTuple

from shared.infra.redis import event_stream

# Requests within so long share one look into Redis. `asOf` is then that much older than it could be, never newer.
SHARE_MS: Final = 100
# The same of a look that Redis did not answer: it is away.
AWAY_MS: Final = 1000
# No request waits longer for a look than this from its beginning. Redis may take two seconds to be given up.
PATIENCE_MS: Final = 250


class Seen(NamedTuple):
    """A look into the streams. ``oldest_ms``: when the oldest event that waits there was received, None if none does."""

    answered: bool
    oldest_ms: int | None


_UNANSWERED: Final = Seen(False, None)


class Look(NamedTuple):
    """``began_ms``: what was acknowledged before it waited in Redis then, or was in Postgres already."""

    began_ms: int
    seen: "asyncio.Task[Seen]"


class StreamBacklog:
    """What waits in Redis to be folded."""

    def __init__(self, redis: event_stream.Redis) -> None:
        self._redis = redis
        self._last: Look | None = None

    async def since(self, now_ms: int) -> tuple[int, Seen]:
        """The last look and when it began. To be asked before Postgres is: what is folded in between is then in the numbers,
        and only `asOf` does not know it yet."""
        look = self._last
        if look is None or not 0 <= now_ms - look.began_ms < _lasts_ms(look):
            look = self._last = Look(now_ms, asyncio.create_task(self._look()))
        if not look.seen.done():
            # Others wait for it too, so it goes on whatever becomes of this request.
            left_ms = PATIENCE_MS - (now_ms - look.began_ms)
            await asyncio.wait((look.seen,), timeout=max(0, left_ms) / 1000)
        return (look.began_ms, look.seen.result()) if look.seen.done() else (now_ms, _UNANSWERED)

    async def _look(self) -> Seen:
        try:
            return Seen(True, await event_stream.oldest_unfolded_ms(self._redis))
        except event_stream.UNAVAILABLE:
            return _UNANSWERED


def _lasts_ms(look: Look) -> float:
    """For how long no other is begun."""
    if not look.seen.done():
        return math.inf
    if look.seen.cancelled() or look.seen.exception() is not None:
        return 0
    return SHARE_MS if look.seen.result().answered else AWAY_MS


def as_of_ms(began_ms: int, seen: Seen, oldest_in_inbox_ms: int | None, complete_ms: int | None) -> int:
    """Everything acknowledged before this instant is in numbers that were read after a look that began at ``began_ms``."""
    candidates = [began_ms, seen.oldest_ms, oldest_in_inbox_ms]
    if not seen.answered:
        # What Redis holds is unknown. That one partition was folded up to some time says nothing of the others.
        candidates.append(complete_ms or 0)
    return min(candidate for candidate in candidates if candidate is not None)
