"""Acts on LiveKit that stand in the audit log: recorded before LiveKit acts, and then how they went.

An entry that still says ``room_ending`` or ``participant_removing`` belongs to an act without a recorded outcome: the process
or Postgres went away in between.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg

from services.api.http.transaction import transaction
from shared.accounts.service import Actor, record
from shared.audit_log import queries as audit_log
from shared.errors import ParticipantNotFound, RelayError, RoomNotFound, StoreUnavailable
from shared.infra.clock import Clock
from shared.infra.ids import Mode
from shared.infra.postgres.pool import Pool

log = logging.getLogger("relay.api")


class Act(NamedTuple):
    """The actions of one entry: while it is under way, once it is done, and if it failed."""

    begun: str
    done: str
    failed: str


END_ROOM: Final = Act("room_ending", "room_ended", "room_end_failed")
REMOVE_PARTICIPANT: Final = Act("participant_removing", "participant_removed", "participant_removal_failed")


class RecordedActs(NamedTuple):
    """Records what one actor does in one project and mode."""

    pool: Pool
    clock: Clock
    actor: Actor
    project_id: str
    mode: Mode

    @asynccontextmanager
    async def recorded(self, act: Act, target: str, detail: str = "") -> AsyncIterator[None]:
        """Around the order to LiveKit. Raises ``StoreUnavailable``, before the block runs, if the act cannot be recorded."""
        detail = ", ".join(part for part in (detail, f"{self.mode} mode") if part)
        now = datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)
        async with transaction(self.pool) as conn:
            project_id = self.project_id
            entry = await record(conn, self.actor, act.begun, now, project_id=project_id, target=target, detail=detail)
        try:
            yield
        except RelayError as error:
            missing = isinstance(error, (RoomNotFound, ParticipantNotFound))
            # Their texts repeat the identity, which erasing it looks for in the target alone.
            await self._finish(entry, act.failed, f"{detail}: {'not found' if missing else error}")
            raise
        await self._finish(entry, act.done, detail)

    async def _finish(self, entry: int, action: str, detail: str) -> None:
        """The act is over: an outcome that cannot be recorded changes nothing in the answer."""
        try:
            async with transaction(self.pool) as conn:
                await audit_log.set_outcome(conn, entry, action, detail)
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            log.warning("audit log: the outcome %s of entry %d is not recorded: %s", action, entry, error)
