"""Known metering errors that need a database, a LiveKit or a crash.

Each test shows what "store the join, subtract at the leave" (tests/naive_meter.py) bills, and what is right. The others are in
tests/unit/test_metering_scenarios.py.
"""

import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from livekit.protocol import models

from services.local.embedded import embedded_servers
from services.worker.drain import drain_inbox, drain_partition
from shared.errors import LiveKitError
from shared.infra.clock import DAY_MS, HOUR_MS, rfc3339
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.redis.event_stream import partition_of
from shared.infra.settings import Settings, parse_database_url
from shared.ledger.fold import fold_batch
from shared.livekit.room_service import RoomService
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.fake_livekit import fake_livekit, twirp_failure
from tests.http_clients import loopback_client
from tests.integration.conftest import SetClock, key_of, serving
from tests.integration.test_reconcile import START_MS, ReconcileWorld
from tests.livekit_bodies import BASE_S, body, participant, room
from tests.naive_meter import NaiveMeter

MINUTE_MS = 60_000
HOOK = "/api/webhooks/livekit"


@pytest.fixture
async def call(settings: Settings, pool: Pool, project: CreatedProject) -> AsyncIterator[ReconcileWorld]:
    """A LiveKit for one test, reconciled by the clock of the test."""
    clock = SetClock(START_MS)
    secret = settings.livekit_api_key, settings.livekit_api_secret
    async with fake_livekit(*secret) as livekit, RoomService(livekit.url, *secret, clock) as service:
        yield ReconcileWorld(livekit, clock, pool, service, project.project_id)


def naive_of(person: models.ParticipantInfo, *told: tuple[str, int]) -> NaiveMeter:
    """Return a naive meter that took webhooks about one participant: (event, ms since the test began)."""
    meter = NaiveMeter()
    who = {"identity": person.identity, "joinedAtMs": str(person.joined_at_ms)}
    for event, after_ms in told:
        meter.take({"event": event, "createdAt": str((START_MS + after_ms) // 1000), "participant": who})
    return meter


async def billed(pool: Pool) -> int:
    async with pool.acquire() as conn:
        return int(await conn.fetchval("SELECT coalesce(sum(participant_ms), 0) FROM usage_hour") or 0)


async def fold(pool: Pool, *bodies: bytes, received_ms: int = (BASE_S + 3600) * 1000) -> None:
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, [Received(received_ms, one) for one in bodies])


async def test_02_left_and_room_finished_are_lost(call: ReconcileWorld) -> None:
    """Naive: never closed.

    Here the session is closed at the last confirmation and marked inferred. A real ``left`` that comes later overrides.
    """
    ada = call.joins("ada")
    await call.webhook("participant_joined", ada)
    for _ in range(4):
        await call.after(30).poll()
    call.leaves("ada")
    for _ in range(3):
        await call.after(30).poll()
    naive = naive_of(ada, ("participant_joined", 0))
    assert (naive.participant_ms, naive.until(START_MS + DAY_MS)) == (0, DAY_MS)
    assert (await call.sessions())["ada"] == (0, 120_000, "reconciled")
    assert await billed(call.pool) == 120_000
    call.clock.at_ms = START_MS + 125_000
    await call.webhook("participant_left", ada)
    assert (await call.sessions())["ada"] == (0, 125_000, "left")
    assert await billed(call.pool) == 125_000


async def test_13_livekit_crashes(call: ReconcileWorld) -> None:
    """Naive: the night is billed.

    An API that does not answer closes and confirms no session. After two polls without the participant, the session ends where
    it was last seen.
    """
    ada = call.joins("ada")
    await call.webhook("participant_joined", ada)
    await call.after(60).poll()
    call.livekit.failure = twirp_failure(503, "unavailable", "no node")
    for _ in range(3):
        with pytest.raises(LiveKitError):
            await call.after(30).poll()
    assert (await call.sessions())["ada"] == (0, None, None)
    call.livekit.failure = None
    call.livekit.people[call.lobby].clear()
    call.after(8 * 3600)
    await call.poll()
    assert (await call.sessions())["ada"] == (0, None, None)
    await call.after(30).poll()
    assert naive_of(ada, ("participant_joined", 0)).until(call.clock.at_ms) > 8 * HOUR_MS
    assert (await call.sessions())["ada"] == (0, 60_000, "reconciled")
    assert await billed(call.pool) == 60_000


async def test_14_webhook_and_poll_race(call: ReconcileWorld) -> None:
    """Naive, with a poll that reports joins too: its join, a minute late, replaces the real one.

    Here the poll opens the session with LiveKit's joining time, and the later webhook finds the same session.
    """
    ada = call.joins("ada")
    await call.after(60).poll()
    assert (await call.sessions())["ada"] == (0, None, None)
    call.clock.at_ms += 1000
    await call.webhook("participant_joined", ada)
    call.clock.at_ms = START_MS + 90_000
    await call.webhook("participant_left", ada)
    call.leaves("ada")
    await call.after(30).poll()
    polled = NaiveMeter()
    for event, at_ms in (("participant_joined", 0), ("participant_joined", 60_000), ("participant_left", 90_000)):
        who = {"identity": "ada", "joinedAtMs": str(START_MS + at_ms)}
        polled.take({"event": event, "createdAt": str((START_MS + at_ms) // 1000), "participant": who})
    assert polled.participant_ms == 30_000
    assert await call.sessions() == {"ada": (0, 90_000, "left")}
    assert await billed(call.pool) == 90_000


async def test_12_an_open_session_counts_up_to_now_and_is_provisional(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    """Naive: 0 until the leave."""
    since_s = int(time.time()) - 90
    where, who = room(livekit_room(project.project_id, "live", "lobby")), participant("PA_1", "ada", since_s * 1000)
    joined = body("participant_joined", "EV_1", since_s, room=where, participant=who)
    await fold(pool, joined, received_ms=since_s * 1000)
    assert NaiveMeter([json.loads(joined)]).participant_ms == 0
    answer = (await api.get("/v1/usage", params={"period": "7d"}, headers=key_of(project))).json()
    assert answer["totals"]["participantMinutes"] == answer["provisionalMinutes"] == pytest.approx(1.5, abs=0.4)
    assert await billed(pool) == 0


@pytest.mark.usefixtures("few_routes")
async def test_17_redis_and_postgres_are_unreachable(
    settings: Settings, pool: Pool, project: CreatedProject, signed: Callable[[bytes], dict[str, str]]
) -> None:
    """Naive: an error is a 4xx, or a 200 for an event that was not stored. The session costs 0.

    Here the response is 503 and LiveKit sends the event again. If only Redis is down, the event is stored, and counted once
    however often it was sent.
    """
    where = room(livekit_room(project.project_id, "live", "lobby"))
    who = participant("PA_1", "ada", BASE_S * 1000)
    left = body("participant_left", "EV_1", BASE_S + 60, room=where, participant=who)
    nowhere = parse_database_url("postgresql://postgres@127.0.0.1:1/none")
    no_redis = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    statuses = []
    for broken in (msgspec.structs.replace(no_redis, database=nowhere), no_redis, no_redis):
        async with serving(broken) as url, loopback_client(url) as client:
            statuses.append((await client.post(HOOK, content=left, headers=signed(left))).status_code)
    assert statuses == [503, 200, 200]
    assert NaiveMeter().participant_ms == await billed(pool) == 0
    async with pool.acquire() as conn:
        await drain_inbox(conn)
    assert await billed(pool) == MINUTE_MS


async def test_18_redis_is_killed_and_then_loses_its_data(pool: Pool, project: CreatedProject, short_tmp: Path) -> None:
    """Naive, with sessions in Redis: the join is gone, and the leave finds nothing.

    Here an acknowledged event survives the kill. Folded events are in Postgres, which no loss of Redis affects.
    """
    where = room(livekit_room(project.project_id, "live", "lobby"))
    who = participant("PA_1", "ada", BASE_S * 1000)
    joined = body("participant_joined", "EV_1", BASE_S, room=where, participant=who)
    left = body("participant_left", "EV_2", BASE_S + 60, room=where, participant=who)
    partition = partition_of(joined)

    async def with_redis(url: str, bodies: list[bytes], drain: bool) -> None:
        redis = event_stream.connect_redis(url)
        try:
            if bodies:
                await event_stream.append(redis, [(partition, Received(BASE_S * 1000, one)) for one in bodies])
            if drain:
                await drain_partition(pool, redis, partition)
        finally:
            await redis.aclose()

    home = short_tmp / "killed"
    with embedded_servers(home) as running:
        await with_redis(running.redis_url, [joined], drain=False)
        os.kill(running.redis_pid, signal.SIGKILL)
    with embedded_servers(home) as running:
        await with_redis(running.redis_url, [], drain=True)
        async with pool.acquire() as conn:
            assert await conn.fetchval("SELECT started_ms FROM session") == BASE_S * 1000
        redis = event_stream.connect_redis(running.redis_url)
        await redis.flushall()
        await redis.aclose()
        await with_redis(running.redis_url, [left], drain=True)
    assert NaiveMeter([json.loads(left)]).participant_ms == 0
    assert await billed(pool) == MINUTE_MS


async def test_21_an_event_for_a_day_that_was_already_reported(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    """Naive: the usage counts on the day of arrival, or yesterday changes in silence.

    Here yesterday changes and the answer shows it.
    """
    today_s = int(time.time()) // 86400 * 86400
    joined_s = today_s - 7200
    where, who = room(livekit_room(project.project_id, "live", "lobby")), participant("PA_1", "ada", joined_s * 1000)
    joined = body("participant_joined", "EV_1", joined_s, room=where, participant=who)
    left = body("participant_left", "EV_2", joined_s + 60, room=where, participant=who)
    naive = NaiveMeter()
    naive.take(json.loads(joined), arrived_ms=joined_s * 1000)
    naive.take(json.loads(left), arrived_ms=today_s * 1000 + 1)
    assert naive.by_day == {today_s * 1000: 7_200_001}
    days: list[dict[str, Any]] = []
    for told in ([], [joined, left]):
        await fold(pool, *told, received_ms=today_s * 1000 + 1)
        answer = await api.get("/v1/usage", params={"period": "7d"}, headers=key_of(project))
        days.append(next(day for day in answer.json()["daily"] if day["date"] == rfc3339(today_s * 1000 - DAY_MS)))
    before, after = days
    assert (before["participantMinutes"], after["participantMinutes"]) == (0.0, 1.0)
    assert "lateChange" not in before
    change = after["lateChange"]
    assert (change["at"], change["participantMinutes"]) == (rfc3339(today_s * 1000 + 1), 1.0)
