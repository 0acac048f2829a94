"""Day partitions are created ahead, filled from the default partition, and dropped when old.

None of this delays the fold for long.
"""

import asyncio

import asyncpg
import pytest

from services.worker.partitions import DAYS_AHEAD, Kept, PartitionsBusy, keep_partitions, partition_events
from services.worker.periodic import JobContext
from shared.events.queries import partitions as queries
from shared.events.queries.events import EVENT_COLUMNS
from shared.infra.clock import DAY_MS, SystemClock, floor_to
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings
from shared.ledger.fold import FoldResult, fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.livekit_bodies import BASE_S, body, meeting, room

NOW_MS = BASE_S * 1000
TODAY = floor_to(NOW_MS, DAY_MS)
ALL = [TODAY + number * DAY_MS for number in range(DAYS_AHEAD + 1)]


async def fold_meeting(conn: Connection, project: CreatedProject, start_s: int, tag: str = "a") -> FoldResult:
    bodies = meeting(livekit_room(project.project_id, "live", "lobby"), start_s=start_s, tag=tag)
    return await fold_batch(conn, 0, [Received((start_s + 3600) * 1000, one) for one in bodies])


async def events_by_partition(conn: Connection) -> dict[str, int]:
    """Return the number of events in each partition."""
    rows = await conn.fetch("SELECT tableoid::regclass::text AS name, count(*) AS n FROM event GROUP BY 1")
    return {row["name"]: row["n"] for row in rows}


async def test_days_are_created_ahead_and_filled_from_the_default_partition(
    pool: Pool, project: CreatedProject
) -> None:
    async with pool.acquire() as conn:
        await fold_meeting(conn, project, BASE_S)
        await fold_meeting(conn, project, BASE_S - 3 * 86400, "old")
        assert await events_by_partition(conn) == {"event_default": 16}
        kept = await keep_partitions(conn, NOW_MS, 90)
        assert kept == Kept(created=[TODAY - 3 * DAY_MS, *ALL], moved=16)
        assert set(await events_by_partition(conn)) == {"event_20261118", "event_20261115"}
        assert await queries.days_with_partition(conn) == [TODAY - 3 * DAY_MS, *ALL]
        # Known events are still known in their new partition. Events of the next day go to that day's partition.
        assert await fold_meeting(conn, project, BASE_S) == FoldResult(known=8)
        await fold_meeting(conn, project, BASE_S + 86400, "next")
        assert (await events_by_partition(conn))["event_20261119"] == 8
        assert await keep_partitions(conn, NOW_MS, 90) == Kept()


async def test_partitions_have_the_indexes_of_their_parent(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await keep_partitions(conn, NOW_MS, 90)
        rows = await conn.fetch(
            "SELECT tablename::text, count(*) AS n FROM pg_indexes WHERE tablename LIKE 'event\\_2%' OR tablename = 'event'"
            " GROUP BY 1"
        )
        assert len({row["n"] for row in rows}) == 1
        assert len(rows) == len(ALL) + 1
        left = "SELECT count(*) FROM pg_constraint WHERE conname IN ('of_its_day') OR conname LIKE 'without%'"
        assert await conn.fetchval(left) == 0


async def test_old_days_and_their_late_events_are_dropped(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await fold_meeting(conn, project, BASE_S - 5 * 86400, "old")
        await keep_partitions(conn, NOW_MS - 5 * DAY_MS, 2)
        assert await queries.horizon(conn) is None
        # Two full days are kept in addition to today.
        assert (await keep_partitions(conn, NOW_MS - 3 * DAY_MS, 2)).dropped == []
        usage = await conn.fetch("SELECT * FROM usage_hour ORDER BY hour")
        kept = await keep_partitions(conn, NOW_MS, 2)
        assert kept.dropped == [TODAY - number * DAY_MS for number in (5, 4, 3)]
        assert await events_by_partition(conn) == {}
        assert await queries.horizon(conn) == TODAY - 2 * DAY_MS
        assert await conn.fetch("SELECT * FROM usage_hour ORDER BY hour") == usage
        # An event of a dropped day is metered, kept in the default partition, and deleted in the next run.
        await fold_meeting(conn, project, BASE_S - 5 * 86400, "late")
        assert await events_by_partition(conn) == {"event_default": 8}
        assert await keep_partitions(conn, NOW_MS, 2) == Kept(deleted=8)
        assert await events_by_partition(conn) == {}


async def test_a_large_default_partition_is_locked_only_briefly(pool: Pool, project: CreatedProject) -> None:
    """The days in it stay there until they are deleted, in batches. Future days still get partitions."""
    small = {"small_bytes": 0, "delete_batch": 3}
    async with pool.acquire() as conn:
        await fold_meeting(conn, project, BASE_S)
        kept = await keep_partitions(conn, NOW_MS, 90, **small)
        assert kept == Kept(created=ALL[1:])
        assert await events_by_partition(conn) == {"event_default": 8}
        assert await keep_partitions(conn, NOW_MS + 3 * DAY_MS, 2, **small) == Kept(
            created=[ALL[-1] + number * DAY_MS for number in (1, 2, 3)], deleted=8
        )
        left = "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'without%'"
        assert await conn.fetchval(left) == 0


async def test_a_large_default_partition_is_not_scanned_under_its_lock(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        messages: list[str] = []

        def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
            messages.append(str(message))

        await fold_meeting(conn, project, BASE_S)
        await conn.execute("SET client_min_messages = debug1")
        conn.add_log_listener(listen)
        assert await queries.add_future_day(conn, ALL[3])
        await conn.execute("RESET client_min_messages")
        async with asyncio.timeout(20):  # the event loop calls listeners later
            while not any("event_default" in message and "is implied by" in message for message in messages):
                await conn.fetchval("SELECT 1")
        conn.remove_log_listener(listen)
        assert not await queries.add_future_day(conn, ALL[3])


async def test_a_constraint_left_by_an_interrupted_run_refuses_no_event(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await conn.execute(
            "ALTER TABLE event_default ADD CONSTRAINT without_event_20261118"
            " CHECK (created_at < '2026-11-18 00:00+00' OR created_at >= '2026-11-19 00:00+00') NOT VALID"
        )
        await keep_partitions(conn, NOW_MS - 30 * DAY_MS, 90)
        assert (await fold_meeting(conn, project, BASE_S)).folded == 8


async def test_a_long_query_over_events_delays_the_fold_only_briefly(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as reader, pool.acquire() as conn, pool.acquire() as fold:
        await keep_partitions(conn, NOW_MS - 9 * DAY_MS, 2)
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM event")
            working = asyncio.create_task(keep_partitions(conn, NOW_MS, 2))
            # The reader's transaction lasts until the end of this block, so waiting for it would never end.
            folded = await asyncio.wait_for(fold_meeting(fold, project, BASE_S), 30)
            kept = await asyncio.wait_for(working, 60)
            assert folded.folded == 8
            assert kept.created == []
            assert len(kept.busy) > DAYS_AHEAD
        kept = await keep_partitions(conn, NOW_MS, 2)
        assert (kept.busy, kept.moved) == ([], 8)


async def test_concurrent_workers_lose_no_events_that_arrive_meanwhile(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")

    async def fold_some(number: int) -> int:
        async with pool.acquire() as conn:
            count = 0
            for turn in range(30):
                at_s = BASE_S - 86400 * (turn % 3)
                one = body("room_started", f"EV_{number}_{turn}", at_s, room=room(name, f"RM_{number}_{turn}"))
                count += (await fold_batch(conn, number, [Received(at_s * 1000, one)])).folded
            return count

    async def keep() -> Kept:
        async with pool.acquire() as conn:
            return await keep_partitions(conn, NOW_MS, 90)

    folded = await asyncio.gather(*(fold_some(number) for number in range(4)), *(keep() for _ in range(3)))
    await keep()
    async with pool.acquire() as conn:
        assert sum(count for count in folded if isinstance(count, int)) == 120
        assert await conn.fetchval("SELECT count(*) FROM event") == 120
        assert await conn.fetchval("SELECT count(*) FROM event_default") == 0
        assert await conn.fetchval("SELECT count(*) FROM set_aside_event") == 0


async def test_a_clock_that_jumps_ahead_drops_nothing(
    settings: Settings, pool: Pool, project: CreatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = SystemClock().now_ms()
    redis = event_stream.connect_redis(settings.redis_url)
    context = JobContext(pool, redis, settings, SystemClock())
    async with pool.acquire() as conn:
        await fold_meeting(conn, project, now_ms // 1000 - 86400)
        await partition_events(context, now_ms + 400 * DAY_MS)
        assert await conn.fetchval("SELECT count(*) FROM event") == 8
        assert max(await queries.days_with_partition(conn)) <= now_ms + (DAYS_AHEAD + 1) * DAY_MS

        async def refuse(conn: Connection, day_ms: int) -> None:
            raise asyncpg.LockNotAvailableError("busy")

        # A job that could not do everything raises an error: it is then repeated within a minute.
        await conn.execute("SELECT 1")
        monkeypatch.setattr(queries, "drop_day", refuse)
        old = floor_to(now_ms - 200 * DAY_MS, DAY_MS)
        await queries.add_day(conn, old)
        with pytest.raises(PartitionsBusy):
            await partition_events(context, now_ms)
    await redis.aclose()


async def test_event_columns_are_those_of_the_table(pool: Pool) -> None:
    """A row that moves to its day keeps every column, so a new column must be in the list too."""
    columns = await pool.fetch(
        """
        SELECT column_name
        FROM information_schema.columns
        WHERE table_schema = current_schema()
          AND table_name = 'event'
        """
    )
    assert {row["column_name"] for row in columns} == set(EVENT_COLUMNS)
