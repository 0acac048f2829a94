"""Record operations on LiveKit in the audit log before the call, and add the outcome after it.

An entry that still says ``room_ending`` or ``participant_removing`` has no recorded outcome: the process or Postgres failed
before it could be written.
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
    """The audit-log actions of one operation: while it runs, when it is done, and if it failed."""

    begun: str
    done: str
    failed: str


END_ROOM: Final = Act("room_ending", "room_ended", "room_end_failed")
REMOVE_PARTICIPANT: Final = Act("participant_removing", "participant_removed", "participant_removal_failed")


class RecordedActs(NamedTuple):
    """Records the operations of one actor in one project and mode."""

    pool: Pool
    clock: Clock
    actor: Actor
    project_id: str
    mode: Mode

    @asynccontextmanager
    async def recorded(self, act: Act, target: str, detail: str = "") -> AsyncIterator[None]:
        """Record an operation. The block sends the request to LiveKit.

        Raises ``StoreUnavailable`` before the block runs if the operation cannot be recorded.
        """
        detail = ", ".join(part for part in (detail, f"{self.mode} mode") if part)
        now = datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)
        async with transaction(self.pool) as conn:
            project_id = self.project_id
            entry = await record(conn, self.actor, act.begun, now, project_id=project_id, target=target, detail=detail)
        try:
            yield
        except RelayError as error:
            missing = isinstance(error, (RoomNotFound, ParticipantNotFound))
            # The texts of these errors repeat the identity, but an erasure only replaces it in the target of an entry.
            await self._finish(entry, act.failed, f"{detail}: {'not found' if missing else error}")
            raise
        await self._finish(entry, act.done, detail)

    async def _finish(self, entry: int, action: str, detail: str) -> None:
        """Record the outcome. A failure to do so does not change the answer, because the operation is over."""
        try:
            async with transaction(self.pool) as conn:
                await audit_log.set_outcome(conn, entry, action, detail)
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            log.warning("audit log: the outcome %s of entry %d was not recorded: %s", action, entry, error)
