"""Up to when usage is complete: `asOf`."""

import asyncio
from typing import Final, NamedTuple

from shared import event_stream

# Requests within so long share one look into Redis. `asOf` is then that much older than it could be, never newer.
SHARE_MS: Final = 100


class Seen(NamedTuple):
    """A look into the streams. ``oldest_ms``: when the oldest event that waits there was received, None if none does."""

    answered: bool
    oldest_ms: int | None


class Look(NamedTuple):
    """``began_ms``: what was acknowledged before it waited in Redis then, or was in Postgres already."""

    began_ms: int
    seen: "asyncio.Task[Seen]"


class Waiting:
    """What waits in Redis to be folded."""

    def __init__(self, redis: event_stream.Redis) -> None:
        self._redis = redis
        self._last: Look | None = None

    async def since(self, now_ms: int) -> tuple[int, Seen]:
        """The last look and when it began. To be asked before Postgres is: what is folded in between is then in the numbers,
        and only `asOf` does not know it yet."""
        look = self._last
        if look is None or not 0 <= now_ms - look.began_ms < SHARE_MS:
            look = self._last = Look(now_ms, asyncio.create_task(self._look()))
        # Shielded: a client that goes away must not take the answer from the others.
        return look.began_ms, await asyncio.shield(look.seen)

    async def _look(self) -> Seen:
        try:
            return Seen(True, await event_stream.oldest_unfolded_ms(self._redis))
        except event_stream.UNAVAILABLE:
            return Seen(False, None)


def as_of_ms(began_ms: int, seen: Seen, oldest_in_inbox_ms: int | None, complete_ms: int | None) -> int:
    """Everything acknowledged before this instant is in numbers that were read after a look that began at ``began_ms``."""
    candidates = [began_ms, seen.oldest_ms, oldest_in_inbox_ms]
    if not seen.answered:
        # What Redis holds is unknown. That one partition was folded up to some time says nothing of the others.
        candidates.append(complete_ms or 0)
    return min(candidate for candidate in candidates if candidate is not None)
