"""Folds do not deadlock each other, and a Redis full of events is still folded."""

import asyncio
import random

import asyncpg
import pytest

from services.cli.projects import create_project
from services.worker.broker import sweep
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker
from shared.infra.settings import Settings
from shared.ledger import fold
from shared.ledger.fold import FoldResult, fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.integration.test_fold import received, usage
from tests.livekit_bodies import BASE_S, body, meeting, meeting_usage
from tests.stored_usage import DayUsage


def _egress(project_id: str, number: str) -> bytes:
    started_ns = (BASE_S + 1) * 1_000_000_000
    info = {
        "egressId": f"EG_{number}_{project_id}",
        "roomName": livekit_room(project_id, "live", "recorded"),
        "startedAt": str(started_ns),
        "endedAt": str(started_ns + 10_000_000_000),
        "web": {},
    }
    return body("egress_ended", f"EV_{info['egressId']}", BASE_S + 11, egressInfo=info)


async def test_concurrent_folds_of_many_projects_do_not_deadlock(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = [(await create_project(settings.database, f"p{number}")).project_id for number in range(12)]
    deadlocks = 0
    folding = fold.fold_in_transaction

    async def counted(conn: Connection, partition: int, batch: list[Received], *, own: bool) -> FoldResult:
        nonlocal deadlocks
        try:
            return await folding(conn, partition, batch, own=own)
        except asyncpg.DeadlockDetectedError:
            deadlocks += 1
            raise

    monkeypatch.setattr(fold, "fold_in_transaction", counted)

    async def fold_partition(partition: int) -> None:
        rng = random.Random(partition)
        async with pool.acquire() as conn:
            for turn in range(8):
                tag = f"{partition}_{turn}"
                bodies = [_egress(project_id, tag) for project_id in rng.sample(projects, 6)]
                for project_id in rng.sample(projects, 6):
                    bodies += meeting(livekit_room(project_id, "live", f"r{partition}"), tag=f"{tag}_{project_id}")
                await fold_batch(conn, partition, received(bodies))

    await asyncio.gather(*(fold_partition(partition) for partition in range(6)))
    assert deadlocks == 0
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT sum(active_ms)::bigint FROM media_hour") == 6 * 8 * 6 * 10_000
        assert (
            await conn.fetchval("SELECT sum(participant_ms)::bigint FROM usage_hour") == 6 * 8 * 6 * meeting_usage()[0]
        )


async def test_the_sweep_folds_the_events_of_a_full_redis(
    settings: Settings, pool: Pool, project: CreatedProject
) -> None:
    """A full Redis takes neither a bell key nor a message, so no worker is woken to make room in it."""
    redis = event_stream.connect_streams(settings)
    bodies = meeting(livekit_room(project.project_id, "live", "lobby"))
    partition = event_stream.partition_of(bodies[0])
    try:
        await event_stream.append(redis, [(partition, one) for one in received(bodies)])
        await redis.delete(event_stream.bell_key(partition))
        await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"] // 2)
        with pytest.raises(event_stream.UNAVAILABLE):
            await event_stream.append(redis, [(partition, received(bodies)[0])])
        await sweep(pool, redis, create_broker(settings.redis_url, []), BASE_S * 1000)
        assert sum(await event_stream.lengths(redis)) == 0
    finally:
        await redis.config_set("maxmemory", 0)
        await redis.aclose()
    assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())
