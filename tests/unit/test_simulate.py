"""The simulator's traffic agrees with the meter, and its sender follows LiveKit's rules."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable

import httpx
import pytest

from services.cli.simulate.cli import simulate
from services.cli.simulate.run import plan
from services.cli.simulate.sender import Sender
from services.cli.simulate.totals import expected
from services.cli.simulate.traffic import Event, Stay
from services.cli.simulate.traffic_options import QUEUE_DEPTH, TrafficOptions
from shared.infra.clock import DAY_MS
from shared.livekit.webhook import WebhookSigner
from shared.metering.observe import observe
from shared.metering.state import Room, Session, merge_room, merge_session
from shared.metering.usage import usage_of
from shared.models.livekit_event import decode_event

NOW_MS = 1_795_046_400_000 + 5_400_000  # 01:30 UTC, so that meetings of the last hours cross midnight
PROJECTS = [("aaaaaaaaaaaaaaaa", "one"), ("bbbbbbbbbbbbbbbb", "two")]


def arguments(*given: str) -> TrafficOptions:
    return TrafficOptions(**simulate.make_context("simulate", list(given)).params)


def test_same_seed_yields_the_same_bytes() -> None:
    options = arguments("--shuffle", "--duplicate", "0.2")
    assert plan(options, PROJECTS, NOW_MS, 7) == plan(options, PROJECTS, NOW_MS, 7)
    assert plan(options, PROJECTS, NOW_MS, 7) != plan(options, PROJECTS, NOW_MS, 8)


@pytest.mark.parametrize("seed", range(6))
def test_metered_usage_equals_the_planned_usage(seed: int) -> None:
    options = arguments("--duration", "10800", "--people", "8", "--shuffle", "--duplicate", "0.3")
    traffic = plan(options, PROJECTS, NOW_MS, seed)
    sessions: dict[str, Session] = {}
    rooms: dict[str, Room] = {}
    for event in traffic.events:
        seen = observe(decode_event(event.body), NOW_MS)
        if seen.room is not None:
            rooms[seen.room.sid] = merge_room(rooms.get(seen.room.sid, seen.room), seen.room)
        if seen.session is not None:
            sessions[seen.session.sid] = merge_session(sessions.get(seen.session.sid, seen.session), seen.session)
    metered: Counter[tuple[str | None, int]] = Counter()
    video: Counter[tuple[str | None, int]] = Counter()
    for session in sessions.values():
        for hour, usage in usage_of(session, rooms[session.room_sid or ""]).items():
            metered[session.project_id, hour // DAY_MS] += usage.participant_ms
            video[session.project_id, hour // DAY_MS] += usage.video_ms
    days = expected(traffic.stays)
    assert len(days) == 4
    assert [day.participant_ms for day in days] == [metered[key] for key in sorted(metered)]
    assert [day.video_ms for day in days] == [video[key] for key in sorted(metered)]


def test_daily_peak_includes_participants_present_at_midnight() -> None:
    day = NOW_MS // DAY_MS * DAY_MS
    stays = [
        Stay("p", "live", day - 10_000, day + 10_000, ()),
        Stay("p", "live", day - 10_000, day, ()),
        Stay("p", "live", day - 20_000, day - 10_000, ()),
        Stay("p", "live", day + 10_000, day + 20_000, ()),
    ]
    assert [day.peak_participants for day in expected(stays)] == [2, 1]


def sender(handler: Callable[[httpx.Request], httpx.Response], **options: object) -> Sender:
    client = httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://relay")

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    return Sender(client, WebhookSigner("devkey", "secret"), concurrency=8, paced=True, sleep=at_once)


async def test_events_of_a_room_are_delivered_in_order() -> None:
    arrived: defaultdict[bytes, list[int]] = defaultdict(list)
    failures = random.Random(1)

    def answer(request: httpx.Request) -> httpx.Response:
        room, number = request.content.split(b":")
        if failures.random() < 0.2:
            return httpx.Response(503)
        arrived[room].append(int(number))
        return httpx.Response(200)

    sending = sender(answer)
    for number in range(30):
        for room in ("a", "b", "c"):
            await sending.offer(Event(room, 0, f"{room}:{number}".encode()))
    await sending.finish()
    assert [arrived[room] for room in (b"a", b"b", b"c")] == [list(range(30))] * 3
    assert sending.counts.acknowledged == 90


@pytest.mark.parametrize(
    ("status", "requests", "field"),
    [(500, 5, "given_up"), (429, 5, "given_up"), (501, 1, "refused"), (401, 1, "refused"), (413, 1, "refused")],
)
async def test_sender_retries_retryable_statuses_only(status: int, requests: int, field: str) -> None:
    sending = sender(lambda _: httpx.Response(status))
    await sending.offer(Event("a", 0, b"x"))
    await sending.finish()
    assert (sending.counts.sent, getattr(sending.counts, field)) == (requests, 1)


async def test_full_queue_drops_the_newest_events() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200)

    sending = sender(answer)
    for number in range(QUEUE_DEPTH + 50):
        await sending.offer(Event("a", 0, b"%d" % number))
    await sending.finish()
    assert sending.counts.dropped_queue_full == 50
    assert bodies == [b"%d" % number for number in range(QUEUE_DEPTH)]
