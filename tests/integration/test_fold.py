"""The fold against a real Postgres: each event takes effect exactly once.

This holds for any order, repetition and interruption.
"""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from services.worker.drain import drain_inbox, drain_partition
from shared.events.queries import events as event_queries
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings
from shared.ledger.fold import FoldResult, fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.models.scope import Scope
from tests.livekit_bodies import BASE_S, body, meeting, meeting_usage, participant, room
from tests.stored_usage import DayUsage, stretches_by_day, usage_by_day

DAY = floor_to(BASE_S * 1000, DAY_MS)
RECEIVED_MS = BASE_S * 1000 + 3_600_000


def received(bodies: list[bytes]) -> list[Received]:
    return [Received(RECEIVED_MS, one) for one in bodies]


async def usage(pool: Pool, project_id: str, mode: str = "live") -> DayUsage | None:
    async with pool.acquire() as conn:
        days = await usage_by_day(conn, Scope(project_id, mode), DAY, DAY + DAY_MS)
    return days.get(DAY)


async def groups(pool: Pool) -> dict[tuple[str, int], tuple[int, int, int, int]]:
    """Return (participant ms, video ms, sessions, visits) by dimension and number of names.

    The test has one day only.
    """
    async with pool.acquire() as conn:
        rows = await conn.fetch(
            "SELECT dimension, c.names, count(*) AS rows, sum(participant_ms)::bigint AS p, sum(video_ms)::bigint AS v,"
            " sum(sessions)::bigint AS s, sum(visits)::bigint AS n FROM usage_group"
            " LEFT JOIN usage_group_count c USING (project_id, mode, dimension, day) WHERE visits > 0 GROUP BY 1, 2"
        )
    assert all(row["rows"] == row["names"] for row in rows)
    return {(row["dimension"], row["names"]): (row["p"], row["v"], row["s"], row["n"]) for row in rows}


async def peak(pool: Pool, project_id: str) -> int:
    async with pool.acquire() as conn:
        stretches = await stretches_by_day(conn, Scope(project_id, "live"), DAY, DAY + DAY_MS)
    return stretches[DAY].peak


@pytest.mark.parametrize("seed", range(8))
async def test_result_is_independent_of_order_repetition_and_batches(
    pool: Pool, project: CreatedProject, seed: int
) -> None:
    rng = random.Random(seed)
    bodies = [
        one
        for number in range(5)
        for one in meeting(livekit_room(project.project_id, "live", f"r{number}"), tag=f"m{number}")
    ]
    bodies += rng.sample(bodies, 12)
    rng.shuffle(bodies)
    async with pool.acquire() as conn:
        while bodies:
            size = rng.randint(1, 9)
            await fold_batch(conn, 0, received(bodies[:size]))
            bodies = bodies[size:]
    participant_ms, video_ms = meeting_usage()
    assert await usage(pool, project.project_id) == DayUsage(5 * participant_ms, 5 * video_ms)
    assert await peak(pool, project.project_id) == 10
    assert await groups(pool) == {
        ("room", 5): (5 * participant_ms, 5 * video_ms, 10, 10),
        ("identity", 2): (5 * participant_ms, 5 * video_ms, 10, 10),
    }


async def test_idempotent(pool: Pool, project: CreatedProject) -> None:
    batch = received(meeting(livekit_room(project.project_id, "live", "lobby")))
    async with pool.acquire() as conn:
        assert await fold_batch(conn, 0, batch) == FoldResult(folded=8)
        once = await usage(pool, project.project_id)
        assert await fold_batch(conn, 0, batch) == FoldResult(known=8)
    assert await usage(pool, project.project_id) == once == DayUsage(*meeting_usage())


async def test_concurrent_folds_of_one_project_sum_up_exactly(pool: Pool, project: CreatedProject) -> None:
    """Two workers recompute the same minute's peak: each must see the other's sessions."""

    async def fold_room(number: int) -> None:
        name = livekit_room(project.project_id, "live", f"r{number}")
        async with pool.acquire() as conn:
            for one in meeting(name, tag=f"p{number}"):
                await fold_batch(conn, number, received([one]))

    await asyncio.gather(*(fold_room(number) for number in range(8)))
    participant_ms, video_ms = meeting_usage()
    assert await usage(pool, project.project_id) == DayUsage(8 * participant_ms, 8 * video_ms)
    assert await peak(pool, project.project_id) == 16


async def test_a_track_event_without_room_is_folded_in_another_partition(pool: Pool, project: CreatedProject) -> None:
    """LiveKit v1.9.0 sent track events without a room: they go to another partition than their session."""
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_x", "ada", BASE_S * 1000)
    joined = body("participant_joined", "EV_1", BASE_S, room=room(name), participant=ada)
    left = body("participant_left", "EV_3", BASE_S + 100, room=room(name), participant=ada)
    who, camera = {"sid": "PA_x", "identity": "ada"}, {"sid": "TR_1", "type": "VIDEO"}
    track = body("track_published", "EV_2", BASE_S + 10, participant=who, track=camera)

    async def fold_in(partition: int, bodies: list[bytes]) -> None:
        async with pool.acquire() as conn:
            await fold_batch(conn, partition, received(bodies))

    await asyncio.gather(fold_in(1, [joined, left]), fold_in(2, [track]))
    assert await usage(pool, project.project_id) == DayUsage(100_000, 90_000)


async def test_room_finished_closes_sessions_and_a_later_left_overrides(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_x", "ada", BASE_S * 1000)
    async with pool.acquire() as conn:
        joined = body("participant_joined", "EV_1", BASE_S, room=room(name), participant=ada)
        finished = body("room_finished", "EV_2", BASE_S + 60, room=room(name))
        await fold_batch(conn, 0, received([joined, finished]))
        assert await usage(pool, project.project_id) == DayUsage(60_000, 0)
        left = body("participant_left", "EV_3", BASE_S + 50, room=room(name), participant=ada)
        await fold_batch(conn, 0, received([left]))
    assert await usage(pool, project.project_id) == DayUsage(50_000, 0)
    assert await groups(pool) == {("room", 1): (50_000, 0, 1, 1), ("identity", 1): (50_000, 0, 1, 1)}


async def test_a_day_that_loses_its_last_session_counts_no_names(pool: Pool, project: CreatedProject) -> None:
    """The abort proves that the participant never connected, so the usage billed before is taken back."""
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_x", "ada", BASE_S * 1000)
    async with pool.acquire() as conn:
        joined = body("participant_joined", "EV_1", BASE_S + 5, room=room(name), participant=ada)
        finished = body("room_finished", "EV_2", BASE_S + 60, room=room(name))
        await fold_batch(conn, 0, received([joined, finished]))
        assert ("room", 1) in await groups(pool)
        aborted = body("participant_connection_aborted", "EV_3", BASE_S + 5, room=room(name), participant=ada)
        await fold_batch(conn, 0, received([aborted]))
        assert await groups(pool) == {}
        assert await conn.fetch("SELECT names FROM usage_group_count WHERE names <> 0") == []


async def test_unfoldable_events_are_set_aside_and_block_no_others(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_x", "ada\0", BASE_S * 1000)
    bad = [
        b"no json",
        b"\xff\xfe",
        b"[]",
        body("participant_joined", "EV_b1", BASE_S + 10**9, room=room(name), participant=ada),
        body("participant_left", "EV_b2", BASE_S - 3600, room=room(name), participant=ada),
        body("track_published", "EV_b3", BASE_S, room=room(name)),
        body("participant_joined", "EV_b4\0", BASE_S, room=room(name), participant=ada),
        body("room_started", "EV_b5", 10**30, room=room(name)),
    ]
    batch = received([*bad, *meeting(name), *bad])
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, batch)
        rows = await conn.fetch("SELECT reason, count(*) AS n FROM set_aside_event GROUP BY reason ORDER BY reason")
    assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())
    assert {row["reason"]: row["n"] for row in rows} == {
        "not_an_event": 3,
        "from_the_future": 2,
        "end_before_start": 1,
        "no_participant": 1,
        "not_storable": 1,
    }


async def test_foreign_rooms_and_unknown_events_are_kept_but_not_metered(pool: Pool, project: CreatedProject) -> None:
    batch = received(
        [
            *meeting("somebody-elses", tag="e"),
            *meeting(livekit_room("nosuchproject", "live", "lobby"), tag="n"),
            body("something_new", "EV_new", BASE_S, room=room(livekit_room(project.project_id, "live", "lobby"))),
        ]
    )
    async with pool.acquire() as conn:
        result = await fold_batch(conn, 0, batch)
        kept = await conn.fetchval("SELECT count(*) FROM event")
        metered = await conn.fetchval("SELECT (SELECT count(*) FROM session) + (SELECT count(*) FROM usage_hour)")
    assert result == FoldResult(folded=17, unattributed=16)
    assert (kept, metered) == (17, 0)


async def test_a_crash_between_commit_and_acknowledgement_has_no_effect(
    settings: Settings, pool: Pool, project: CreatedProject
) -> None:
    redis = event_stream.connect_redis(settings.redis_url)
    try:
        bodies = meeting(livekit_room(project.project_id, "live", "lobby"))
        partition = event_stream.partition_of(bodies[0])
        assert {event_stream.partition_of(one) for one in bodies} == {partition}
        assert await event_stream.append(redis, [(partition, one) for one in received(bodies)]) == [partition]
        entries = await event_stream.read_batch(redis, partition, 5)
        async with pool.acquire() as conn:
            await fold_batch(conn, partition, [one for _, one in entries])
        # The worker dies here. Its successor reads the same entries first, then the rest.
        assert await drain_partition(pool, redis, partition) == FoldResult(folded=3, known=5)
        assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())
        assert await event_stream.oldest_unfolded_ms(redis) is None
        assert await drain_partition(pool, redis, partition) == FoldResult()
    finally:
        await redis.aclose()


async def test_partitions_held_by_another_worker_do_not_block_the_others(
    settings: Settings, pool: Pool, project: CreatedProject
) -> None:
    """A hanging worker holds its partitions while its connections live. The others must be folded."""
    redis, turns = event_stream.connect_redis(settings.redis_url), asyncio.Semaphore(2)
    bodies = [meeting(livekit_room(project.project_id, "live", f"r{n}"), tag=f"m{n}") for n in range(40)]
    partitions = {event_stream.partition_of(some[0]): some for some in bodies}
    (*hung, free) = sorted(partitions)[:4]
    try:
        async with AsyncExitStack() as held:
            for partition in hung:
                conn = await held.enter_async_context(pool.acquire())
                assert await held.enter_async_context(event_queries.partition_reader(conn, partition))
            for partition in (*hung, free):
                await event_stream.append(redis, [(partition, one) for one in received(partitions[partition])])
            waiting = [
                asyncio.create_task(drain_partition(pool, redis, partition, turns=turns, patience_s=60.0))
                for partition in hung
            ]
            await asyncio.sleep(0)
            async with asyncio.timeout(20):
                assert (await drain_partition(pool, redis, free, turns=turns)).folded == len(partitions[free])
            assert not any(one.done() for one in waiting)
        folded = await asyncio.gather(*waiting)
        assert [result.folded for result in folded] == [len(partitions[partition]) for partition in hung]
    finally:
        await redis.aclose()


async def test_a_partition_held_by_another_worker_is_skipped(settings: Settings, pool: Pool) -> None:
    """The sweep wakes a partition again and again while a hanging worker holds it.

    Each wait would hold a thread.
    """
    redis = event_stream.connect_redis(settings.redis_url)
    bodies = received(meeting("x"))
    try:
        await event_stream.append(redis, [(3, one) for one in bodies])
        async with pool.acquire() as conn, event_queries.partition_reader(conn, 3) as ours:
            assert ours
            async with asyncio.timeout(20):
                assert await drain_partition(pool, redis, 3, run_s=3600.0) == FoldResult()
        assert (await drain_partition(pool, redis, 3)).folded == len(bodies)
    finally:
        await redis.aclose()


async def test_the_inbox_is_folded_once(pool: Pool, project: CreatedProject) -> None:
    bodies = received(meeting(livekit_room(project.project_id, "live", "lobby")))
    async with pool.acquire() as conn:
        await event_queries.put_in_inbox(conn, [(3, one) for one in bodies])
        assert await drain_inbox(conn) == 8
        assert await drain_inbox(conn) == 0
    assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())


async def test_unstorable_events_do_not_block_the_inbox(pool: Pool, project: CreatedProject) -> None:
    """An event reaches the inbox while Redis is unreachable, and with every replay."""
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_x", "ada", BASE_S * 1000)
    bad = body("participant_joined", "EV_b4\0", BASE_S, room=room(name), participant=ada)
    async with pool.acquire() as conn:
        await event_queries.put_in_inbox(conn, [(3, one) for one in received([bad, *meeting(name), bad])])
        assert await drain_inbox(conn) == 10
        assert await drain_inbox(conn) == 0
        rows = await conn.fetch("SELECT reason FROM set_aside_event")
        assert [row["reason"] for row in rows] == ["not_storable"]
    assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())
