"""Create Dramatiq's broker, with a middleware that opens and closes what the actors need."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import dramatiq
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
from shared.infra.postgres.errors import UNAVAILABLE as POSTGRES_UNAVAILABLE
from shared.infra.postgres.pool import Pool, connect, create_pool, remember_times, renew_if_read_only
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker, wake
from shared.infra.redis.dramatiq_internals import run_on_event_loop
from shared.infra.redis.errors import UNAVAILABLE as REDIS_UNAVAILABLE
from shared.infra.settings import Settings
from shared.infra.tasks import Background
from shared.operations.backlog import Backlog

log = logging.getLogger("relay.worker")

SWEEP_S = 1.0
ACTOR_TIME_LIMIT_MS = 60_000
# Each of the eight threads may fold a partition. Each of a few jobs uses one connection for its lock and one for its work.
POOL_SIZE = 20


class Resources(Middleware):
    """Opens Postgres and Redis on the worker's event loop, and runs the sweep and the periodic jobs there.

    Must come after ``AsyncIO``. A failure to open is raised as ``MiddlewareError``: Dramatiq ignores every other exception
    here, and the worker would consume messages without a database.

    A background task that ends by itself is named in ``pulse.failed``; then ``on_failure`` is called.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        pulse: Pulse | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self.pulse = pulse or new_pulse()
        self.turns = asyncio.Semaphore(AT_ONCE)
        self._clock = clock or SystemClock()
        self._on_failure = on_failure
        self._pool: Pool | None = None
        self._redis: event_stream.Redis | None = None
        self._background: Background | None = None
        self._schedule: Schedule | None = None
        self._heartbeat: Heartbeat | None = None

    @property
    def pool(self) -> Pool:
        """The pool of connections to Postgres."""
        assert self._pool is not None, "the worker has not booted"  # noqa: S101 - a programming error
        return self._pool

    @property
    def redis(self) -> event_stream.Redis:
        """The Redis of the event streams."""
        assert self._redis is not None, "the worker has not booted"  # noqa: S101 - a programming error
        return self._redis

    def fail(self, name: str) -> None:
        """Stop the worker because an essential part of it has ended by itself."""
        if not self.pulse.stopping:
            log.critical("%s has ended unexpectedly; the worker stops", name)
            self.pulse.failed = self.pulse.failed or name
            self._on_failure()

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Open everything. Raises ``MiddlewareError``."""
        try:
            assert isinstance(broker, RedisBroker)  # noqa: S101 - a programming error
            run_on_event_loop(self._open(broker))
        except MiddlewareError:
            raise
        except POSTGRES_UNAVAILABLE as error:
            raise MiddlewareError(f"cannot open the database: {error}") from error
        except Exception as error:  # Dramatiq would only log any other exception and continue
            raise MiddlewareError(f"cannot start: {type(error).__name__}: {error}") from error

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Stop the background tasks.

        The fold reads ``stopping`` after every batch: it finishes the running batch and begins no other.
        """
        self.pulse.stopping = True
        # If the event loop itself has ended, there is nothing to stop.
        with suppress(MiddlewareError):
            run_on_event_loop(self._stop())

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Drop the connections. AsyncIO has stopped the loop by now, so they close with the process."""
        self._pool = self._redis = None

    async def _open(self, broker: RedisBroker) -> None:
        # The pool opens even if Postgres cannot be reached. This connection fails, so that the worker does not start.
        conn = await connect(self._settings.database, "relay worker")
        await conn.close()
        self._pool = await create_pool(self._settings.database, "relay worker", max_size=POOL_SIZE, init=remember_times)
        self._redis = event_stream.connect_streams(self._settings)
        self._background = Background(self.fail)
        self._background.start("sweep", self._sweep_forever(broker))
        metrics.watch_pool(self._pool.get_size, self._pool.get_idle_size, self._pool.get_max_size())
        backlog = Backlog(self._pool, self._redis, broker, self._clock)
        self._heartbeat = Heartbeat(self._pool, self._redis, backlog, self._clock, self.pulse)
        jobs = [*periodic_jobs(self._settings), self._heartbeat.job()]
        self._schedule = Schedule(jobs, JobContext(self._pool, self._redis, self._settings, self._clock), self.fail)
        self._schedule.start()

    async def _stop(self) -> None:
        if self._schedule is not None:
            await self._schedule.stop()
        if self._background is not None:
            await self._background.end()
        if self._heartbeat is not None:
            await self._heartbeat.stop()

    async def _sweep_forever(self, broker: dramatiq.Broker) -> None:
        while True:
            try:
                await sweep(self.pool, self.redis, broker, self._clock.now_ms())
            except (*POSTGRES_UNAVAILABLE, *REDIS_UNAVAILABLE) as error:
                log.warning("sweep: %s; trying again", error)
                await renew_if_read_only(self.pool, error)
            except Exception:  # the sweep is the worker's safety net: a defect is logged and must not end it
                log.exception("sweep failed")
            await asyncio.sleep(SWEEP_S)


async def sweep(pool: Pool, redis: event_stream.Redis, broker: dramatiq.Broker, now_ms: int) -> None:
    """Fold the inbox, and wake the partitions whose wake message was lost.

    A full Redis accepts no wake message. Its streams are then folded here; otherwise it would stay full. The time of the oldest
    waiting event is recorded in Postgres. While Redis is unreachable, usage is complete up to that time.
    """
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


def create_worker_broker(settings: Settings, resources: Resources) -> RedisBroker:
    """Create the broker with the middleware of a consumer.

    The order matters: ``resources`` must come after ``AsyncIO``.
    """
    middleware: list[Middleware] = [
        TimeLimit(time_limit=ACTOR_TIME_LIMIT_MS),
        ShutdownNotifications(),
        Retries(max_retries=3),
        AsyncIO(),
        resources,
    ]
    return create_broker(settings.redis_url, middleware)
