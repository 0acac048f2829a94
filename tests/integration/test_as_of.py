"""`asOf`: every event acknowledged before it is in the numbers, whatever is away."""

import asyncio
import time

import pytest

from services.api.usage.ranges import usage_range
from services.api.usage.schemas import UsageQuery
from services.api.usage.service import usage_for
from services.api.usage.stream_backlog import AWAY_MS, PATIENCE_MS, SHARE_MS, Seen, StreamBacklog
from services.worker.broker import sweep
from services.worker.drain import drain_partition
from shared.events.queries import events as event_queries
from shared.infra.clock import rfc3339
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock
from tests.livekit_bodies import meeting

# Postgres' own clock has a say, so it is about now.
NOW_MS = time.time_ns() // 1_000_000 - 60_000
START_S = NOW_MS // 1000 - 3600
NOWHERE = "redis://127.0.0.1:1/0"


async def test_it_is_never_later_than_what_waits(settings: Settings, pool: Pool, project: CreatedProject) -> None:
    """One partition that is folded up to now says nothing of another that is not, with Redis there or away."""
    redis, away = event_stream.connect_streams(settings), event_stream.connect_redis(NOWHERE)
    broker = create_broker(settings.redis_url, [])
    scope = Scope(project.project_id, "live")
    rooms = [livekit_room(project.project_id, "live", name) for name in "abcdefghijklmnop"]
    partitions = {event_stream.partition_of(meeting(name)[0]): name for name in rooms}
    (fast, fast_room), (slow, slow_room) = list(partitions.items())[:2]

    async def as_of(streams: event_stream.Redis) -> str:
        query = usage_range(UsageQuery(period="7d"), NOW_MS)
        return (await usage_for(pool, StreamBacklog(streams), scope, query, UsageClock(NOW_MS, None))).as_of

    try:
        assert await as_of(redis) == rfc3339(NOW_MS)
        assert await as_of(away) == rfc3339(0)  # nothing is known yet
        await event_stream.append(
            redis, [(slow, Received(NOW_MS - 5000, meeting(slow_room, start_s=START_S, tag="s")[0]))]
        )
        await event_stream.append(
            redis, [(fast, Received(NOW_MS - 1000, meeting(fast_room, start_s=START_S, tag="f")[0]))]
        )
        assert await as_of(redis) == rfc3339(NOW_MS - 5000)
        await drain_partition(pool, redis, fast)
        await sweep(pool, redis, broker, NOW_MS)
        assert await as_of(redis) == await as_of(away) == rfc3339(NOW_MS - 5000)
        await drain_partition(pool, redis, slow)
        await sweep(pool, redis, broker, NOW_MS)
        assert await as_of(redis) == await as_of(away) == rfc3339(NOW_MS)
        async with pool.acquire() as conn:
            waiting = Received(NOW_MS - 9000, meeting(slow_room, start_s=START_S, tag="i")[0])
            await event_queries.put_in_inbox(conn, [(slow, waiting)])
        assert await as_of(redis) == await as_of(away) == rfc3339(NOW_MS - 9000)
    finally:
        await redis.aclose()
        await away.aclose()


async def test_a_look_into_redis_is_shared_for_a_moment_and_never_makes_it_newer(
    settings: Settings, pool: Pool, project: CreatedProject
) -> None:
    redis = event_stream.connect_streams(settings)
    waiting, scope = StreamBacklog(redis), Scope(project.project_id, "live")

    async def as_of(now_ms: int) -> str:
        query = usage_range(UsageQuery(period="7d"), now_ms)
        return (await usage_for(pool, waiting, scope, query, UsageClock(now_ms, None))).as_of

    try:
        assert await as_of(NOW_MS) == rfc3339(NOW_MS)
        body = meeting(livekit_room(project.project_id, "live", "a"), start_s=START_S, tag="w")[0]
        await event_stream.append(redis, [(event_stream.partition_of(body), Received(NOW_MS + 10, body))])
        # What has come since the look is not counted, and is not older than it.
        assert await as_of(NOW_MS + SHARE_MS - 1) == rfc3339(NOW_MS)
        assert await as_of(NOW_MS + SHARE_MS) == rfc3339(NOW_MS + 10)
        # After a clock was set back, a look is from the future.
        assert await as_of(NOW_MS - 1) == rfc3339(NOW_MS - 1)
    finally:
        await redis.aclose()


async def test_a_redis_that_hangs_is_waited_for_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by every request: it takes two seconds to be given up, and usage goes on without it."""
    looks, given_up = 0, asyncio.Event()

    async def hang(_redis: event_stream.Redis) -> int | None:
        nonlocal looks
        looks += 1
        await given_up.wait()
        raise TimeoutError

    monkeypatch.setattr(event_stream, "oldest_unfolded_ms", hang)
    redis = event_stream.connect_streams(settings)
    waiting = StreamBacklog(redis)
    async with asyncio.timeout(20):
        for later_ms in range(0, 5000, PATIENCE_MS):
            assert await waiting.since(NOW_MS + later_ms) == (NOW_MS + later_ms, Seen(False, None))
        assert looks == 1
        given_up.set()
        await waiting.since(NOW_MS)
        assert await waiting.since(NOW_MS + AWAY_MS - 1) == (NOW_MS, Seen(False, None))
        assert looks == 1
        await waiting.since(NOW_MS + AWAY_MS)
        assert looks == 2
        monkeypatch.undo()
        assert await waiting.since(NOW_MS + 2 * AWAY_MS) == (NOW_MS + 2 * AWAY_MS, Seen(True, None))
    await redis.aclose()
