"""Send a worker's heartbeat: a row in Postgres for operators, and its age for the health server."""

import asyncio
import logging
import os
import socket
import time

import asyncpg
import msgspec

from services.worker.periodic import Job, JobContext
from shared.infra.clock import Clock, from_ms
from shared.infra.ids import new_id
from shared.infra.postgres.errors import UNAVAILABLE
from shared.infra.postgres.pool import Pool
from shared.infra.redis.errors import UNAVAILABLE as REDIS_UNAVAILABLE
from shared.infra.redis.event_stream import Redis
from shared.infra.version import VERSION
from shared.models.operations import WorkerRow
from shared.operations.backlog import Backlog
from shared.operations.queries import workers as queries

log = logging.getLogger("relay.worker")

BEAT_S = 5.0
BEAT_TIMEOUT_S = 4.0
# If the event loop has not run for this long, the process counts as stuck.
STUCK_S = 60.0


class Pulse(msgspec.Struct):
    """The state of a worker, for the health server.

    ``turned``: monotonic seconds at which the event loop last ran. ``troubles``: problems that the last heartbeat found, by
    part. ``failed``: the name of a background task or thread that ended by itself.
    """

    turned: float
    troubles: dict[str, str]
    stopping: bool = False
    failed: str | None = None

    def is_stuck(self) -> bool:
        """Return whether the event loop has not run for ``STUCK_S``."""
        return time.monotonic() - self.turned > STUCK_S


def new_pulse() -> Pulse:
    """Return the state of a worker that has not booted: alive, but not ready."""
    return Pulse(time.monotonic(), {"worker": "starting"})


class Heartbeat:
    """Records heartbeats. Runs on the worker's event loop."""

    def __init__(self, pool: Pool, redis: Redis, backlog: Backlog, clock: Clock, pulse: Pulse) -> None:
        self._pool, self._redis, self._backlog, self._clock, self._pulse = pool, redis, backlog, clock, pulse
        self._id = new_id()
        self._started = from_ms(clock.now_ms())

    def job(self) -> Job:
        """Return the heartbeat as a periodic job, which runs in every worker."""

        async def run(_context: JobContext, _now_ms: int) -> None:
            await self.beat()

        return Job("heartbeat", BEAT_S, run, alone=False)

    async def beat(self) -> None:
        """Record one heartbeat. Never raises: problems go into the pulse, and the next beat tries again."""
        self._pulse.turned = time.monotonic()
        troubles: dict[str, str] = {}
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await self._record(stopped=False)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            troubles["postgres"] = f"unreachable ({type(error).__name__})"
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await self._redis.ping()
        except REDIS_UNAVAILABLE as error:
            troubles["redis"] = f"unreachable ({type(error).__name__})"
        if troubles and not self._pulse.troubles:
            log.warning("heartbeat: %s", ", ".join(f"{part} {trouble}" for part, trouble in troubles.items()))
        self._pulse.troubles = troubles
        await self._backlog.measure()

    async def stop(self) -> None:
        """Record the orderly stop of this worker, if Postgres can be reached."""
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await self._record(stopped=True)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.warning("the end of this worker could not be recorded: %s", type(error).__name__)

    async def _record(self, *, stopped: bool) -> None:
        now_ms = self._clock.now_ms()
        now = from_ms(now_ms)
        row = WorkerRow(
            self._id, socket.gethostname(), os.getpid(), VERSION, self._started, now, now if stopped else None
        )
        async with self._pool.acquire() as conn:
            await queries.beat(conn, row)
            if stopped:
                await queries.forget_workers(conn, now_ms)
