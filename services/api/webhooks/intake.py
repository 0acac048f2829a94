"""Store webhook events in Redis, or in Postgres while Redis is unreachable.

Events that arrive during a round trip share the next one (group commit), so many requests pay for one synced append. If both
stores fail, the event is refused with ``EventNotKept`` and LiveKit sends it again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import accumulate

import asyncpg
from dramatiq import Broker
from redis.exceptions import RedisError

from shared.errors import EventNotKept
from shared.events.queries import events as queries
from shared.infra import metrics, tracing
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import wake
from shared.infra.tasks import end_tasks
from shared.models.received import Received

log = logging.getLogger("relay.api")

# Events that one round trip carries, and events that may wait. Beyond that, events are refused and LiveKit sends them again.
GROUP_LIMIT = 1000
WAITING_LIMIT = 20_000
# Events above this size (bytes) go to the inbox in Postgres, at most two at once.
LARGE_BYTES = 256 * 1024
LARGE_AT_ONCE = 2
# The limits of a round trip and of waiting events in bytes. Most events have less than 2 kB, the largest have 8 MiB.
GROUP_BYTES = 8 * 1024 * 1024
WAITING_BYTES = 64 * 1024 * 1024
INBOX_TIMEOUT_S = 5.0
# After a failure, large events do not use the inbox for this long.
INBOX_PAUSE_S = 5.0
# While Redis is unreachable, it is asked this often whether it is back.
ASK_AGAIN_S = 0.5


class Intake:
    """Accepts verified events and stores them while ``run`` runs.

    ``close`` lets ``run`` end after it has stored the accepted events. Create it on the event loop that uses it.
    """

    def __init__(self, redis: event_stream.Redis, pool: Pool, broker: Broker) -> None:
        self._redis, self._pool, self._broker = redis, pool, broker
        self._waiting: list[tuple[int, Received, asyncio.Future[None]]] = []
        self._waiting_bytes = 0
        # The group that is being stored.
        self._group: list[tuple[int, Received, asyncio.Future[None]]] = []
        # The tasks that store large events, and the semaphore that limits them.
        self._large: set[asyncio.Task[None]] = set()
        self._large_slots = asyncio.Semaphore(LARGE_AT_ONCE)
        # Kept, because up to Python 3.11 each call of get_running_loop is a system call.
        self._new_future: Callable[[], asyncio.Future[None]] = asyncio.get_running_loop().create_future
        self._arrived = asyncio.Event()
        self._closing = False
        self._wakes: set[asyncio.Task[None]] = set()
        # Asks Redis whether it is back. Runs only while Redis is unreachable.
        self._redis_check: asyncio.Task[None] | None = None
        # After a failure of the inbox, large events go to Redis until then (monotonic seconds).
        self._inbox_paused_until = 0.0
        self._kept = metrics.webhooks["kept"]
        metrics.intake_waiting.set_function(lambda: len(self._waiting))

    def keep(self, received: Received) -> "asyncio.Future[None]":
        """Return a future that is done when the event is stored. It fails with ``EventNotKept``.

        Raises ``EventNotKept`` at once if too many events wait, or after ``close``.
        """
        if self._closing:
            metrics.webhooks["not_kept"].count += 1
            raise EventNotKept("this process stores no more events; send it again")
        if len(self._waiting) >= WAITING_LIMIT or self._waiting_bytes >= WAITING_BYTES:
            metrics.webhooks["not_kept"].count += 1
            raise EventNotKept("too many events are waiting to be stored; send it again")
        kept = self._new_future()
        self._waiting_bytes += len(received.body)
        if len(received.body) > LARGE_BYTES:
            task = asyncio.create_task(self._keep_large(received, kept))
            self._large.add(task)
            task.add_done_callback(self._large.discard)
        else:
            self._wait_for_group(received, kept)
        return kept

    def _wait_for_group(self, received: Received, kept: "asyncio.Future[None]") -> None:
        self._waiting.append((event_stream.partition_of(received.body), received, kept))
        self._arrived.set()

    async def _keep_large(self, received: Received, kept: "asyncio.Future[None]") -> None:
        """Store a large event in the inbox, or in Redis if Postgres is unreachable.

        A read from Redis is limited by entries and not by bytes, so the fold could not read a stream of large events in
        bounded pieces. After a failure the inbox is not used for a while: if Postgres hangs, each large event would wait for
        a time-out and take the room of small events.
        """
        async with self._large_slots:
            try:
                if time.monotonic() < self._inbox_paused_until:
                    error: EventNotKept | None = EventNotKept("the event could not be stored; send it again")
                else:
                    error = await self._store_in_inbox([(event_stream.partition_of(received.body), received)])
                    if error is not None:
                        self._inbox_paused_until = time.monotonic() + INBOX_PAUSE_S
            except Exception:  # the waiting request must be answered
                log.exception("storing a large event failed")
                error = EventNotKept("the event could not be stored; send it again")
        if error is not None and not self._closing:
            self._wait_for_group(received, kept)
            return
        self._waiting_bytes -= len(received.body)
        if not kept.done():  # the request may have been cancelled
            kept.set_result(None) if error is None else kept.set_exception(error)

    async def run(self) -> None:
        """Store accepted events, group by group, until ``close``.

        If it fails, accepted and later events are ``EventNotKept``, so that no request keeps waiting.
        """
        try:
            await self._store_groups()
        finally:
            self._closing = True
            for _, _, kept in (*self._group, *self._waiting):
                if not kept.done():
                    metrics.webhooks["not_kept"].count += 1
                    kept.set_exception(EventNotKept("the event could not be stored; send it again"))
            self._group, self._waiting = [], []
        await self._end_tasks()

    async def _store_groups(self) -> None:
        while not (self._closing and not self._waiting):
            await self._arrived.wait()
            group = self._group = self._next_group()
            if not self._waiting and not self._closing:
                self._arrived.clear()
            if not group:
                continue
            started = time.perf_counter()
            error = await self._store_or_refuse([(partition, received) for partition, received, _ in group])
            metrics.intake_seconds.observe(time.perf_counter() - started)
            metrics.intake_group_events.observe(len(group))
            if error is not None:
                metrics.webhooks["not_kept"].count += len(group)
            for _, _, kept in group:
                if not kept.done():  # the request may have been cancelled
                    kept.set_result(None) if error is None else kept.set_exception(error)
            self._group = []

    async def _end_tasks(self) -> None:
        if self._large:
            await asyncio.wait(self._large)
        if self._redis_check is not None:
            await end_tasks([self._redis_check])
        if self._wakes:
            await asyncio.wait(self._wakes, timeout=2)

    def _next_group(self) -> list[tuple[int, Received, asyncio.Future[None]]]:
        count = min(GROUP_LIMIT, len(self._waiting))
        if self._waiting_bytes > GROUP_BYTES:
            sizes = accumulate(len(received.body) for _, received, _ in self._waiting[:count])
            count = next((number for number, size in enumerate(sizes, 1) if size >= GROUP_BYTES), count)
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= sum(len(received.body) for _, received, _ in group)
        return group

    def close(self) -> None:
        """Stop accepting events. ``run`` ends when the accepted ones are stored."""
        self._closing = True
        self._arrived.set()

    async def _store_or_refuse(self, entries: list[tuple[int, Received]]) -> EventNotKept | None:
        try:
            return await self._store(entries)
        except Exception:  # these requests must be answered, and the next group must be stored
            log.exception("storing %d events failed", len(entries))
            return EventNotKept("the event could not be stored; send it again")

    async def _store(self, entries: list[tuple[int, Received]]) -> EventNotKept | None:
        if self._redis_check is not None and not self._redis_check.done():
            return await self._store_in_inbox(entries)
        try:
            with tracing.linked_span(
                "keep webhooks", (received.trace for _, received in entries), webhooks=len(entries)
            ):
                silent = await event_stream.append(self._redis, entries)
        except event_stream.UNAVAILABLE as error:
            log.warning("Redis did not take %d events (%s); using the inbox", len(entries), type(error).__name__)
            self._redis_check = asyncio.create_task(self._wait_for_redis())
            return await self._store_in_inbox(entries)
        self._kept.count += len(entries)
        if silent:
            task = asyncio.create_task(self._wake(silent))
            self._wakes.add(task)
            task.add_done_callback(self._wakes.discard)
        return None

    async def _wait_for_redis(self) -> None:
        """Return when Redis answers again.

        An unreachable server costs a time-out for each attempt. So only this task tries, not every group of webhooks.
        """
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            try:
                await event_stream.lengths(self._redis)
            except event_stream.UNAVAILABLE:
                continue
            log.info("Redis answers again")
            return

    async def _store_in_inbox(self, entries: list[tuple[int, Received]]) -> EventNotKept | None:
        try:
            async with borrowed(self._pool, INBOX_TIMEOUT_S) as conn:
                await queries.put_in_inbox(conn, entries)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            log.error("neither Redis nor Postgres took %d events: %s", len(entries), type(error).__name__)
            return EventNotKept("the event could not be stored; send it again")
        metrics.webhooks["inbox"].count += len(entries)
        return None

    async def _wake(self, partitions: list[int]) -> None:
        try:
            await wake(self._broker, partitions)
        except (RedisError, OSError) as error:
            log.warning("could not wake the fold (%s); the worker's sweep will", type(error).__name__)
