"""Fold the waiting events: in the stream of a partition, and in the inbox in Postgres."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

from shared.events.queries import events as event_queries
from shared.infra import metrics, tracing
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.redis import event_stream
from shared.ledger.fold import FoldResult, fold_batch

BATCH = 4000
# Partitions that one process folds at the same time. With three, neither Python nor Postgres is ever idle. More would only use
# more memory, prepare the same statements on more connections, and wait for each other's locks.
AT_ONCE = 3
TURN_S = 0.5
# How often, and for how long, to check whether another worker has released a partition. The holder drains to the end and
# releases the lock. The sweep wakes up partitions with events left. Without a limit, every thread would wait if a holder hangs.
ANOTHER_S = 0.02
PATIENCE_S = 1.0
# A run folds for at most this long, then other partitions get their turn.
RUN_S = 10.0


async def drain_partition(
    pool: Pool,
    redis: event_stream.Redis,
    partition: int,
    stopping: Callable[[], bool] = lambda: False,
    turns: asyncio.Semaphore | None = None,
    *,
    run_s: float = RUN_S,
    patience_s: float = PATIENCE_S,
) -> FoldResult:
    """Fold a partition's stream until it is empty, ``run_s`` is over, or ``stopping`` returns true.

    ``stopping`` is called between two batches. Only one caller of all workers folds a partition: a second one waits for the
    first, for at most ``patience_s``, and then folds what is left. An entry is acknowledged only after its commit.

    ``turns`` is held for ``TURN_S``, then another partition gets its turn. A caller that waits for another worker does not
    hold it.
    """
    total = FoldResult()
    deadline = time.monotonic() + run_s
    held_since: float | None = None
    while True:
        async with turns or nullcontext():
            left = await _take_turn(pool, redis, partition, stopping, total)
        if left == "nothing" or time.monotonic() > deadline or stopping():
            return total
        if left == "another's":
            held_since = held_since or time.monotonic()
            if time.monotonic() > held_since + patience_s:
                return total
            await asyncio.sleep(ANOTHER_S)
        else:
            held_since = None


async def _take_turn(
    pool: Pool, redis: event_stream.Redis, partition: int, stopping: Callable[[], bool], total: FoldResult
) -> Literal["nothing", "more", "another's"]:
    """Fold for one turn and add the result to ``total``.

    Returns what is left: ``nothing``, perhaps ``more``, or ``another's`` if another worker is reading the partition.
    """
    until = time.monotonic() + TURN_S
    async with pool.acquire() as conn, event_queries.partition_reader(conn, partition) as is_reader:
        if not is_reader:
            return "another's"
        while (result := await _fold_next(conn, redis, partition)) is not None:
            for field in FoldResult.__struct_fields__:
                setattr(total, field, getattr(total, field) + getattr(result, field))
            if time.monotonic() > until or stopping():
                return "more"
    return "nothing"


async def _fold_next(conn: Connection, redis: event_stream.Redis, partition: int) -> FoldResult | None:
    await event_stream.silence_bell(redis, partition)
    entries = await event_stream.read_batch(redis, partition, BATCH)
    if not entries:
        return None
    started = time.monotonic()
    traces = (received.trace for _, received in entries)
    with tracing.linked_span("fold batch", traces, partition=partition, events=len(entries)):
        result = await fold_batch(conn, partition, [received for _, received in entries])
        await event_stream.acknowledge(redis, partition, [entry_id for entry_id, _ in entries])
    _count(result, entries[0][1].received_ms, time.monotonic() - started)
    return result


def _count(result: FoldResult, oldest_ms: int, seconds: float) -> None:
    for name in FoldResult.__struct_fields__:
        if count := getattr(result, name):
            metrics.fold_events.labels(name).inc(count)
    metrics.fold_batch_events.observe(result.folded + result.known + result.set_aside)
    metrics.fold_batch_seconds.observe(seconds)
    metrics.fold_lag_seconds.observe(max(0.0, time.time() - oldest_ms / 1000))


async def drain_inbox(conn: Connection) -> int:
    """Fold the events in the inbox and return their number.

    Each batch is removed from the inbox and folded in one transaction.
    """
    count = 0
    for partition in await event_queries.inbox_partitions(conn):
        while True:
            async with conn.transaction():
                await event_queries.lock_partition(conn, partition)
                batch = await event_queries.take_from_inbox(conn, partition, BATCH, event_stream.BATCH_BYTES)
                if batch:
                    await fold_batch(conn, partition, batch)
            if not batch:
                break
            count += len(batch)
    return count
