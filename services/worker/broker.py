"""Dramatiq's broker and the middleware that opens and closes what the actors need."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

import dramatiq
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, Middleware, MiddlewareError, Retries, ShutdownNotifications, TimeLimit
from redis.exceptions import RedisError

from services.worker.drain import AT_ONCE, drain_inbox, drain_partition
from services.worker.heartbeat import Heartbeat, Pulse, new_pulse
from services.worker.jobs import periodic_jobs
from services.worker.periodic import JobContext, Schedule
from shared.events.queries import events as event_queries
from shared.infra import metrics
from shared.infra.clock import Clock, SystemClock
from shared.infra.postgres.pool import UNAVAILABLE, Pool, connect, create_pool, remember_times, renew_if_read_only
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker, wake
from shared.infra.settings import Settings
from shared.infra.tasks import end_tasks
from shared.operations.backlog import Backlog

log = logging.getLogger("relay.worker")
T = TypeVar("T")

SWEEP_S = 1.0
ACTOR_TIME_LIMIT_MS = 60_000
# Each of the eight threads may fold a partition, each of a few jobs holds one for its lock and one for its work.
POOL_SIZE = 20


class Resources(Middleware):
    """Opens Postgres and Redis on the worker's event loop and runs the sweep and the periodic jobs there. Must stand after
    ``AsyncIO``.

    A failure to open is raised as ``MiddlewareError``: Dramatiq swallows everything else here, and the worker would consume
    without a database.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None, pulse: Pulse | None = None) -> None:
        self._settings = settings
        self.pulse = pulse or new_pulse()
        self.turns = asyncio.Semaphore(AT_ONCE)
        self._clock = clock or SystemClock()
        self._pool: Pool | None = None
        self._redis: event_stream.Redis | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._schedule: Schedule | None = None
        self._heartbeat: Heartbeat | None = None

    @property
    def pool(self) -> Pool:
        assert self._pool is not None, "the worker has not booted"  # noqa: S101 - a wiring error, not a state of the world
        return self._pool

    @property
    def redis(self) -> event_stream.Redis:
        assert self._redis is not None, "the worker has not booted"  # noqa: S101 - a wiring error, not a state of the world
        return self._redis

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        try:
            assert isinstance(broker, RedisBroker)  # noqa: S101 - a wiring error, not a state of the world
            _run(self._open(broker))
        except UNAVAILABLE as error:
            raise MiddlewareError(f"cannot open the database: {error}") from error

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        # The fold looks at this after every batch: what is in hand is finished, nothing new is begun.
        self.pulse.stopping = True
        _run(self._stop())

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        # Runs after AsyncIO stopped the loop; the connections go with the process.
        self._pool = self._redis = None

    async def _open(self, broker: RedisBroker) -> None:
        conn = await connect(self._settings.database, "relay worker")
        await conn.close()
        self._pool = await create_pool(self._settings.database, "relay worker", max_size=POOL_SIZE, init=remember_times)
        self._redis = event_stream.connect_streams(self._settings)
        self._sweep = asyncio.create_task(self._sweep_for_ever(broker))
        metrics.watch_pool(self._pool.get_size, self._pool.get_idle_size, self._pool.get_max_size())
        backlog = Backlog(self._pool, self._redis, broker, self._clock)
        self._heartbeat = Heartbeat(self._pool, self._redis, backlog, self._clock, self.pulse)
        jobs = [*periodic_jobs(self._settings), self._heartbeat.job()]
        self._schedule = Schedule(jobs, JobContext(self._pool, self._redis, self._settings, self._clock))
        self._schedule.start()

    async def _stop(self) -> None:
        if self._schedule is not None:
            await self._schedule.stop()
        if self._sweep is not None:
            await end_tasks([self._sweep])
        if self._heartbeat is not None:
            await self._heartbeat.stop()

    async def _sweep_for_ever(self, broker: dramatiq.Broker) -> None:
        while True:
            try:
                await sweep(self.pool, self.redis, broker, self._clock.now_ms())
            except (*UNAVAILABLE, *event_stream.UNAVAILABLE) as error:
                log.warning("sweep: %s; trying again", error)
                await renew_if_read_only(self.pool, error)
            except Exception:  # the sweep is the worker's safety net: a defect must be told and must not end it
                log.exception("sweep failed")
            await asyncio.sleep(SWEEP_S)


async def sweep(pool: Pool, redis: event_stream.Redis, broker: dramatiq.Broker, now_ms: int) -> None:
    """Folds the inbox and wakes the partitions whose ring was lost. A Redis that is full takes neither a ring nor a message:
    what fills it is then folded here, or it would stay full for ever. What Redis holds is noted in Postgres: while it is away,
    that says how far the numbers are complete."""
    async with pool.acquire() as conn:
        await drain_inbox(conn)
    waiting = await event_stream.unfolded(redis)
    oldest_ms = await event_stream.oldest_unfolded_ms(redis) if waiting else None
    async with pool.acquire() as conn:
        await event_queries.record_complete(conn, now_ms if oldest_ms is None else min(now_ms, oldest_ms))
    try:
        await wake(broker, await event_stream.ring(redis, waiting))
    except RedisError as error:
        if not event_stream.is_full(error):
            raise
        log.warning("Redis is full: folding %d partitions without waking", len(waiting))
        for partition in waiting:
            await drain_partition(pool, redis, partition)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    thread = get_event_loop_thread()
    if thread is None:
        coroutine.close()
        raise MiddlewareError("the AsyncIO middleware must stand before Resources")
    return thread.run_coroutine(coroutine)


def create_worker_broker(settings: Settings, resources: Resources) -> RedisBroker:
    """The broker with what a consumer needs, in the order it needs it."""
    middleware: list[Middleware] = [
        TimeLimit(time_limit=ACTOR_TIME_LIMIT_MS),
        ShutdownNotifications(),
        Retries(max_retries=3),
        AsyncIO(),
        resources,
    ]
    return create_broker(settings.redis_url, middleware)
