"""When keys were last used, to the minute: noted in memory at each request, written by one statement now and then."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

import asyncpg

from shared.infra.clock import MINUTE_MS, Clock, floor_to
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed
from shared.keys import queries

log = logging.getLogger("relay.api")

FLUSH_S: Final = 30.0
_TIMEOUT_S = 5.0
# Keys of one statement; a process that serves more writes several.
_AT_ONCE = 1000
# A use that could not be written for this long is dropped: its key may be gone.
_GIVE_UP_MS = 10 * MINUTE_MS


class LastUsed:
    """The uses that this process saw. A crash loses up to ``FLUSH_S`` of them, which costs nothing but their minute."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock = pool, clock
        # Key id to unix ms. Assigned to by every request, so it stays a plain dict.
        self.seen: dict[str, int] = {}
        self._written: dict[str, int] = {}

    async def run(self) -> None:
        """Writes every ``FLUSH_S`` until cancelled; ``flush`` once more afterwards."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Writes the minutes that Postgres does not know yet. What fails is tried again the next time."""
        seen, self.seen = self.seen, {}
        minutes = {key_id: floor_to(at, MINUTE_MS) for key_id, at in seen.items()}
        due = [(key_id, minute) for key_id, minute in minutes.items() if minute > self._written.get(key_id, 0)]
        too_old_ms = self._clock.now_ms() - _GIVE_UP_MS
        for start in range(0, len(due), _AT_ONCE):
            part = dict(due[start : start + _AT_ONCE])
            for key_id in part.keys() - await self._write(part):
                if part[key_id] > too_old_ms:
                    self.seen.setdefault(key_id, part[key_id])
        # Only what was used lately is kept: a key that was not has nothing to be compared with.
        self._written = {key_id: at for key_id, at in self._written.items() if key_id in seen}

    async def _write(self, used: dict[str, int]) -> set[str]:
        try:
            async with borrowed(self._pool, _TIMEOUT_S) as conn:
                at = {key_id: datetime.fromtimestamp(minute / 1000, UTC) for key_id, minute in used.items()}
                settled = await queries.mark_used(conn, at)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.warning("the last use of %d keys could not be written (%s)", len(used), type(error).__name__)
            return set()
        except Exception:  # a defect here must not end the writing for good
            log.exception("writing the last use of keys failed")
            return set(used)
        self._written |= {key_id: used[key_id] for key_id in settled}
        return settled
