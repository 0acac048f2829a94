"""Create a partition of raw events for each day ahead of time, and drop it when its retention ends.

Events of a day without a partition are in the default partition. Each day found there gets a partition, and its rows are moved
into it. On an installation that is older than its partitions, the default partition can be large. Then its days stay there and
are deleted in small steps, because the fold has to wait during a move.
"""

import logging

import asyncpg
import msgspec

from services.worker.periodic import JobContext
from shared.events.queries import partitions as queries
from shared.infra.clock import DAY_MS, HOUR_MS, floor_to
from shared.infra.postgres.pool import Connection

log = logging.getLogger("relay.worker")

JOB = "partitions"
DAYS_AHEAD = 7
# Up to this size, moving a day's rows locks the default partition for well under a second.
SMALL_BYTES = 16 * 1024 * 1024
# The fold accepts no event that is further in the future (observe.FUTURE_TOLERANCE_MS is half of this).
SURELY_EMPTY_AFTER_MS = 2 * HOUR_MS
DELETE_BATCH = 5_000


class Kept(msgspec.Struct):
    """The result of a run.

    Days are unix ms of their midnight (UTC). ``moved`` and ``deleted`` count rows. ``busy`` days are tried again next time.
    """

    created: list[int] = []
    moved: int = 0
    dropped: list[int] = []
    deleted: int = 0
    busy: list[int] = []


class PartitionsBusy(Exception):
    """A long query reads events, so partitions could not be created or dropped. Run the job again soon."""


async def partition_events(context: JobContext, now_ms: int) -> None:
    """Run the periodic job. Raises ``PartitionsBusy``."""
    async with context.pool.acquire() as conn:
        # The earlier of both clocks counts, so that a worker whose clock jumps ahead does not drop a month of events.
        now_ms = min(now_ms, await queries.database_now_ms(conn))
        kept = await keep_partitions(conn, now_ms, context.settings.event_retention_days)
    if kept != Kept():
        log.info(
            "events: %d days created, %d rows moved, %d days dropped, %d old rows deleted",
            len(kept.created),
            kept.moved,
            len(kept.dropped),
            kept.deleted,
        )
    if kept.busy:
        raise PartitionsBusy(f"{len(kept.busy)} days are busy")


async def keep_partitions(
    conn: Connection,
    now_ms: int,
    retention_days: int,
    *,
    small_bytes: int = SMALL_BYTES,
    delete_batch: int = DELETE_BATCH,
) -> Kept:
    """Create the partitions that are needed, and delete events older than ``retention_days`` full days.

    Partitions are needed for today, for ``DAYS_AHEAD`` days ahead, and for each day in the default partition. Each step is its
    own transaction. Any number of workers may run this at the same time.
    """
    kept = Kept()
    today = floor_to(now_ms, DAY_MS)
    cutoff = today - retention_days * DAY_MS
    await queries.drop_proofs(conn)
    await _retire(conn, cutoff, kept, delete_batch)
    existing = set(await queries.days_with_partition(conn))
    is_small = await queries.default_bytes(conn) <= small_bytes
    in_default = await queries.days_in_default(conn) if is_small else []
    needed = {today + number * DAY_MS for number in range(DAYS_AHEAD + 1)}
    for day in sorted((needed | set(in_default)) - existing):
        try:
            if is_small:
                moved = await queries.add_day(conn, day)
                created = moved is not None
                kept.moved += moved or 0
            elif day >= now_ms + SURELY_EMPTY_AFTER_MS:
                created = await queries.add_future_day(conn, day)
            else:
                continue
        except asyncpg.LockNotAvailableError:
            kept.busy.append(day)
            continue
        if created:
            kept.created.append(day)
    return kept


async def _retire(conn: Connection, cutoff_ms: int, kept: Kept, delete_batch: int) -> None:
    for day in await queries.days_with_partition(conn):
        if day + DAY_MS > cutoff_ms:
            break
        try:
            await queries.drop_day(conn, day)
        except asyncpg.LockNotAvailableError:
            kept.busy.append(day)
            continue
        kept.dropped.append(day)
    while deleted := await queries.delete_from_default(conn, cutoff_ms, delete_batch):
        kept.deleted += deleted
