"""Drains what waits for the fold: a partition's stream, and the inbox in Postgres."""

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
# Partitions that one process folds at once: enough that Python and Postgres both always have one to work on. More of them only
# hold memory, prepare the same statements on more connections, and wait for one another's locks.
AT_ONCE = 3
TURN_S = 0.5
# Between two looks whether another worker has let go of a partition, and for how long to look: it reads to the end and lets go
# at once, and of what it leaves all the same the sweep tells. One that hangs would be waited for by every thread there is.
ANOTHER_S = 0.02
PATIENCE_S = 1.0
# One run folds for at most this long before other partitions get their turn.
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
    """Folds a partition's stream until it is empty, ``run_s`` have passed or, asked between two batches, ``stopping``. One at a
    time, across all workers: a second caller waits for the first, no longer than ``patience_s``, then finds nothing or goes
    on. Every entry is acknowledged only after its commit. ``turns``: taken for ``TURN_S``, then it is the turn of another
    partition; whoever waits for another worker takes none."""
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
    """Folds, adding to ``total``. Returns what is left: it may be more, or it is another worker's who reads just now."""
    until = time.monotonic() + TURN_S
    async with pool.acquire() as conn, event_queries.partition_reader(conn, partition) as ours:
        if not ours:
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
    """Folds what was acknowledged while Redis was away; returns how many events. Taking and folding commit together."""
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
