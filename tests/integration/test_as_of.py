"""`asOf`: usage holds every event that was acknowledged before it, also during outages."""

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

# Queries also use Postgres' own clock, so this is close to now.
NOW_MS = time.time_ns() // 1_000_000 - 60_000
START_S = NOW_MS // 1000 - 3600
NOWHERE = "redis://127.0.0.1:1/0"


async def test_as_of_is_never_later_than_an_unfolded_event(
    settings: Settings, pool: Pool, project: CreatedProject
) -> None:
    """A partition that is folded up to now does not hide a backlog in another one.

    This holds with Redis reachable and unreachable.
    """
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


async def test_a_shared_reading_of_redis_never_makes_as_of_newer(
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
        # An event that arrived after the reading is not counted, and it is not older than the reading.
        assert await as_of(NOW_MS + SHARE_MS - 1) == rfc3339(NOW_MS)
        assert await as_of(NOW_MS + SHARE_MS) == rfc3339(NOW_MS + 10)
        # After the clock is set back, the reading lies in the future.
        assert await as_of(NOW_MS - 1) == rfc3339(NOW_MS - 1)
    finally:
        await redis.aclose()


async def test_requests_share_one_wait_for_a_hanging_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out for Redis is two seconds. Meanwhile usage is answered without Redis."""
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
