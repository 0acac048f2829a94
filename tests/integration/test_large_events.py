"""Many events of 200 kB (metadata at LiveKit's limits): memory and answers stay bounded."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.api.webhooks.intake import GROUP_BYTES, LARGE_BYTES, WAITING_BYTES, Intake
from services.worker.drain import drain_inbox, drain_partition
from shared.errors import EventNotKept
from shared.events.queries import events as event_queries
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker
from shared.infra.settings import Settings
from shared.ledger.fold import FoldResult
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.integration.test_fold import RECEIVED_MS, usage
from tests.livekit_bodies import BASE_S, body, meeting, meeting_usage, participant, room
from tests.stored_usage import DayUsage

BIG = "m" * 64_000


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[event_stream.Redis]:
    streams = event_stream.connect_streams(settings)
    yield streams
    await streams.aclose()


def _large(room_name: str, number: int) -> Received:
    who = participant(f"PA_{number}", f"i{number}", BASE_S * 1000, metadata=BIG, attributes={"a": BIG})
    rm = {**room(room_name), "metadata": BIG}
    return Received(RECEIVED_MS, body("participant_joined", f"EV_{number}", BASE_S, room=rm, participant=who))


async def _append(redis: event_stream.Redis, room_name: str, count: int) -> int:
    partition = event_stream.partition_of(_large(room_name, 0).body)
    for start in range(0, count, 20):
        numbers = range(start, min(start + 20, count))
        await event_stream.append(redis, [(partition, _large(room_name, number)) for number in numbers])
    return partition


async def test_a_backlog_of_large_events_is_read_in_bounded_batches(
    redis: event_stream.Redis, pool: Pool, project: CreatedProject
) -> None:
    """Redis needed longer than the client's time-out for an answer with a thousand of them.

    The partition was never folded again.
    """
    partition = await _append(redis, livekit_room(project.project_id, "live", "lobby"), 400)
    batch = await event_stream.read_batch(redis, partition, 2000)
    assert 0 < sum(len(received.body) for _, received in batch) <= event_stream.BATCH_BYTES + 50 * 200_000
    # The batch is not folded yet, so the next read returns exactly the same batch.
    assert await event_stream.read_batch(redis, partition, 2000) == batch
    assert await drain_partition(pool, redis, partition, run_s=600) == FoldResult(folded=400)
    assert sum(await event_stream.lengths(redis)) == 0


@pytest.mark.parametrize("small", [0, 1, 8, 71, 200])
async def test_answers_of_redis_stay_bounded_when_events_become_large(
    redis: event_stream.Redis, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Small events make the reader request many entries. The largest allowed events follow them."""
    sizes = [100] * small + [LARGE_BYTES] * 80
    for start in range(0, len(sizes), 20):
        group = [Received(RECEIVED_MS, b"x" * size) for size in sizes[start : start + 20]]
        await event_stream.append(redis, [(3, one) for one in group])
    answers: list[tuple[int, int]] = []
    xrange: Any = redis.xrange

    async def recorded(*args: Any, **options: Any) -> Any:
        found = await xrange(*args, **options)
        answers.append((len(found), sum(len(fields[3]) for _, fields in found)))
        return found

    monkeypatch.setattr(redis, "xrange", recorded)
    batch = await event_stream.read_batch(redis, 3, 4000)
    assert sum(size for _, size in answers) == sum(len(received.body) for _, received in batch)
    before = 0
    for count, size in answers:
        # At most 500 entries: 125 MiB if only the largest events follow small ones.
        assert count <= (8 if before == 0 else min(500, 8 * before))
        assert size <= count * LARGE_BYTES
        before += count


async def test_small_events_fill_a_batch(redis: event_stream.Redis) -> None:
    entries = [(3, Received(RECEIVED_MS, b'{"event":"x","number":%d}' % number)) for number in range(2500)]
    await event_stream.append(redis, entries)
    first = await event_stream.read_batch(redis, 3, 2000)
    assert [received for _, received in first] == [received for _, received in entries[:2000]]
    assert await event_stream.read_batch(redis, 3, 2000) == first
    await event_stream.acknowledge(redis, 3, [entry_id for entry_id, _ in first])
    rest = await event_stream.read_batch(redis, 3, 2000)
    assert [received for _, received in rest] == [received for _, received in entries[2000:]]


async def test_an_interrupted_acknowledgement_leaves_no_stale_entries(
    redis: event_stream.Redis, pool: Pool, project: CreatedProject
) -> None:
    """Redis may die between two commands.

    Folded events must not count as waiting, and must not block the events that are waiting.
    """
    bodies = meeting(livekit_room(project.project_id, "live", "lobby"))
    partition = event_stream.partition_of(bodies[0])
    await event_stream.append(redis, [(partition, Received(RECEIVED_MS, one)) for one in bodies])
    batch = await event_stream.read_batch(redis, partition, 8)
    await redis.xdel(event_stream.stream_key(partition), *(entry_id for entry_id, _ in batch[:5]))
    assert await event_stream.read_batch(redis, partition, 3) == batch[5:]
    assert await drain_partition(pool, redis, partition) == FoldResult(folded=3)
    assert await event_stream.oldest_unfolded_ms(redis) is None


async def test_the_inbox_is_read_in_bounded_batches(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    async with pool.acquire() as conn:
        for number in range(60):
            await event_queries.put_in_inbox(conn, [(3, _large(name, number))])
        async with conn.transaction():
            taken = await event_queries.take_from_inbox(conn, 3, 2000, 1_000_000)
            assert [len(taken), taken[0]] == [6, _large(name, 0)]
        assert await drain_inbox(conn) == 54
        assert await conn.fetchval("SELECT count(*) FROM webhook_inbox") == 0


async def test_intake_refuses_events_above_its_limit_and_keeps_the_others(
    settings: Settings, redis: event_stream.Redis, pool: Pool, project: CreatedProject
) -> None:
    intake = Intake(redis, pool, create_broker(settings.redis_url, []))
    small = [Received(RECEIVED_MS, one) for one in meeting(livekit_room(project.project_id, "live", "lobby"))]
    large = [
        Received(RECEIVED_MS, b'{"event":"x","x":"%s"}' % (b"x" * 250_000)) for _ in range(WAITING_BYTES // 250_000)
    ]
    waiting = [intake.keep(one) for one in (*small, *large)]
    filler = intake.keep(large[0])
    with pytest.raises(EventNotKept):
        await intake.keep(small[0])
    running = asyncio.create_task(intake.run())
    await asyncio.gather(*waiting, filler)
    await intake.keep(small[0])
    intake.close()
    await running
    assert sum(await event_stream.lengths(redis)) == len(small) + len(large) + 2
    assert GROUP_BYTES < WAITING_BYTES
    for partition in range(event_stream.PARTITIONS):
        await drain_partition(pool, redis, partition)
    assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())
