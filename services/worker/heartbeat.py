"""A worker's signs of life: a row in Postgres for people and the portal, the age of the last one for the probe."""

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
from shared.infra.postgres.pool import UNAVAILABLE, Pool
from shared.infra.redis.event_stream import UNAVAILABLE as REDIS_UNAVAILABLE
from shared.infra.redis.event_stream import Redis
from shared.infra.version import VERSION
from shared.models.operations import WorkerRow
from shared.operations.backlog import Backlog
from shared.operations.queries import workers as queries

log = logging.getLogger("relay.worker")

BEAT_S = 5.0
BEAT_TIMEOUT_S = 4.0
# Dramatiq's event loop has not run at all for this long: nothing in this process folds any more.
STUCK_S = 60.0


class Pulse(msgspec.Struct):
    """What the probe tells: monotonic seconds of the loop's last turn, and what the last beat found wrong."""

    turned: float
    troubles: dict[str, str]
    stopping: bool = False

    def is_stuck(self) -> bool:
        return time.monotonic() - self.turned > STUCK_S


def new_pulse() -> Pulse:
    """Of a worker that has not booted: alive, not ready."""
    return Pulse(time.monotonic(), {"worker": "starting"})


class Heartbeat:
    """Beats on the worker's event loop."""

    def __init__(self, pool: Pool, redis: Redis, backlog: Backlog, clock: Clock, pulse: Pulse) -> None:
        self._pool, self._redis, self._backlog, self._clock, self._pulse = pool, redis, backlog, clock, pulse
        self._id = new_id()
        self._started = from_ms(clock.now_ms())

    def job(self) -> Job:
        """The beat as a periodic job of this worker."""

        async def run(_context: JobContext, _now_ms: int) -> None:
            await self.beat()

        return Job("heartbeat", BEAT_S, run, alone=False)

    async def beat(self) -> None:
        """Never raises: what is wrong goes into the pulse, and the next beat tries again."""
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
        """Tells that this worker ended in order, if Postgres still listens."""
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
