"""Many events through the streams, shuffled and repeated: rollups equal the simulator's own sum."""

import asyncio
import time

import pytest

from services.cli.projects import create_project
from services.cli.simulate.cli import simulate
from services.cli.simulate.run import Traffic, plan
from services.cli.simulate.totals import DayExpected, expected
from services.cli.simulate.traffic_options import TrafficOptions
from services.worker.drain import AT_ONCE, drain_partition
from shared.infra.clock import DAY_MS, rfc3339
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings
from shared.models.received import Received
from shared.models.scope import Scope
from tests.stored_usage import stretches_by_day, usage_by_day

Owners = list[tuple[str, str]]


def traffic_for(owners: Owners, now_ms: int, *given: str) -> Traffic:
    options = TrafficOptions(**simulate.make_context("simulate", list(given)).params)
    return plan(options, owners, now_ms, 20261124)


async def metered(pool: Pool, owners: Owners) -> list[DayExpected]:
    """Return what the rollups contain, in the simulator's form."""
    found = []
    async with pool.acquire() as conn:
        for project_id, _ in sorted(owners):
            scope = Scope(project_id, "live")
            days = await usage_by_day(conn, scope, 0, 2**45 // DAY_MS * DAY_MS)
            stretches = await stretches_by_day(conn, scope, 0, 2**45)
            level = 0
            for day in sorted(stretches):
                usage = days[day]
                found.append(
                    DayExpected(
                        project_id,
                        "live",
                        rfc3339(day)[:10],
                        usage.participant_ms,
                        usage.video_ms,
                        usage.participant_ms - usage.video_ms,
                        level + stretches[day].peak,
                    )
                )
                level += stretches[day].change
    return found


async def test_rollups_of_100_000_shuffled_events_equal_the_simulators_sum(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One event loop does all the work. On a busy machine it may read an answer of Redis later than a worker's time-out.
    monkeypatch.setattr(event_stream, "SOCKET_TIMEOUT_S", 60.0)
    owners = [((await create_project(settings.database, name)).project_id, name) for name in ("one", "two")]
    now_ms = time.time_ns() // 1_000_000
    options = ("--events", "83334", "--rooms", "40", "--people", "12", "--duration", "90000")
    traffic = traffic_for(owners, now_ms, *options, "--shuffle", "--duplicate", "0.2")
    assert len(traffic.events) >= 99_000
    redis = event_stream.connect_redis(settings.redis_url)
    try:
        entries = [(event_stream.partition_of(e.body), Received(now_ms, e.body)) for e in traffic.events]
        for start in range(0, len(entries), 2000):
            await event_stream.append(redis, entries[start : start + 2000])
        turns = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:  # a failing task cancels the others
            drains = [group.create_task(_drain(pool, redis, p, turns)) for p in range(event_stream.PARTITIONS)]
        assert await event_stream.oldest_unfolded_ms(redis) is None
    finally:
        await redis.aclose()
    assert sum(drain.result() for drain in drains) == traffic.generated
    assert await metered(pool, owners) == expected(traffic.stays)


async def _drain(pool: Pool, redis: event_stream.Redis, partition: int, turns: asyncio.Semaphore) -> int:
    folded = 0
    while await redis.xlen(event_stream.stream_key(partition)):
        folded += (await drain_partition(pool, redis, partition, turns=turns)).folded
    return folded
