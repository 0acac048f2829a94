"""Measure the work that waits for the fold, and the workers.

This happens when metrics are read, at most every two seconds.
"""

import asyncio
import logging
import time

import asyncpg
from dramatiq.brokers.redis import RedisBroker

from shared.infra import metrics
from shared.infra.clock import Clock
from shared.infra.postgres.errors import UNAVAILABLE as POSTGRES_UNAVAILABLE
from shared.infra.postgres.pool import Pool, borrowed
from shared.infra.redis import event_stream
from shared.infra.redis.dramatiq_internals import dead_messages
from shared.infra.redis.errors import UNAVAILABLE as REDIS_UNAVAILABLE
from shared.operations.queries import workers as queries

log = logging.getLogger("relay.backlog")

FRESH_S = 2.0
TIMEOUT_S = 2.0


class Backlog:
    """Updates the gauges of waiting work."""

    def __init__(self, pool: Pool, redis: event_stream.Redis, broker: RedisBroker, clock: Clock) -> None:
        self._pool, self._redis, self._broker, self._clock = pool, redis, broker, clock
        self._measured = 0.0
        self._lock = asyncio.Lock()

    async def measure(self) -> None:
        """Set the gauges, unless they are younger than ``FRESH_S`` seconds.

        If a server does not answer, its gauges keep their values, and ``relay_backlog_unknown`` is 1.
        """
        async with self._lock:
            if time.monotonic() - self._measured < FRESH_S:
                return
            redis, postgres = await asyncio.gather(self._measure_redis(), self._measure_postgres())
            metrics.backlog_unknown.labels("redis").set(0 if redis else 1)
            metrics.backlog_unknown.labels("postgres").set(0 if postgres else 1)
            self._measured = time.monotonic()

    async def _measure_redis(self) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                lengths = await event_stream.lengths(self._redis)
                oldest_ms = await event_stream.oldest_unfolded_ms(self._redis)
                dead = await asyncio.to_thread(dead_messages, self._broker)
        except REDIS_UNAVAILABLE as error:
            log.warning("cannot measure the waiting work in Redis: %s", type(error).__name__)
            return False
        metrics.stream_events.set(sum(lengths))
        metrics.dead_messages.set(dead)
        waited_ms = 0 if oldest_ms is None else max(0, self._clock.now_ms() - oldest_ms)
        metrics.stream_oldest_seconds.set(waited_ms / 1000)
        return True

    async def _measure_postgres(self) -> bool:
        try:
            async with borrowed(self._pool, TIMEOUT_S) as conn:
                waiting = await queries.waiting_work(conn, self._clock.now_ms())
        except (*POSTGRES_UNAVAILABLE, asyncpg.PostgresError) as error:
            log.warning("cannot measure the waiting work in Postgres: %s", type(error).__name__)
            return False
        metrics.inbox_events.set(waiting.inbox)
        metrics.set_aside_events.set(waiting.set_aside)
        metrics.workers.set(waiting.workers)
        return True
