"""Record when keys were last used, to the minute.

Each request is recorded in memory. One statement writes the times of many keys every ``FLUSH_S``.
"""

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
# Keys that one statement writes.
_AT_ONCE = 1000
# A use that could not be written for this long is dropped: its key may be gone.
_GIVE_UP_MS = 10 * MINUTE_MS


class LastUsed:
    """The times of last use that this process has seen. A crash loses those of the last ``FLUSH_S``."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock = pool, clock
        # Key id to unix ms. A plain dict, because every request assigns to it.
        self.seen: dict[str, int] = {}
        self._written: dict[str, int] = {}

    async def run(self) -> None:
        """Write every ``FLUSH_S`` until cancelled. Call ``flush`` once more afterwards."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write the minutes that are not in Postgres yet. Failed writes are tried again the next time."""
        seen, self.seen = self.seen, {}
        minutes = {key_id: floor_to(at, MINUTE_MS) for key_id, at in seen.items()}
        due = [(key_id, minute) for key_id, minute in minutes.items() if minute > self._written.get(key_id, 0)]
        too_old_ms = self._clock.now_ms() - _GIVE_UP_MS
        for start in range(0, len(due), _AT_ONCE):
            part = dict(due[start : start + _AT_ONCE])
            for key_id in part.keys() - await self._write(part):
                if part[key_id] > too_old_ms:
                    self.seen.setdefault(key_id, part[key_id])
        # Keys that were not used since the last flush are dropped, so that the dict does not grow.
        self._written = {key_id: at for key_id, at in self._written.items() if key_id in seen}

    async def _write(self, used: dict[str, int]) -> set[str]:
        try:
            async with borrowed(self._pool, _TIMEOUT_S) as conn:
                at = {key_id: datetime.fromtimestamp(minute / 1000, UTC) for key_id, minute in used.items()}
                settled = await queries.mark_used(conn, at)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.warning("the last use of %d keys could not be written (%s)", len(used), type(error).__name__)
            return set()
        except Exception:  # a defect here must not end the task
            log.exception("writing the last use of keys failed")
            return set(used)
        self._written |= {key_id: used[key_id] for key_id in settled}
        return settled
