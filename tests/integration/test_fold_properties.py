"""Laws of the fold through Postgres, over generated histories in which names and times collide.

Order, repetitions, batches and partitions do not matter: every table is the same at the end, the sums are those of the
second meter, and `verify` finds no difference.
"""

import json
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.infra.clock import DAY_MS, HOUR_MS
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.redis.event_stream import partition_of
from shared.ledger.fold import fold_batch
from shared.ledger.proof import Checked
from shared.ledger.verify import verify
from shared.models.received import Received
from tests.examples import examples
from tests.unit.brute_force_meter import Event, Meter, Row, level_at, peak

MIDNIGHT = 20_775 * DAY_MS
RECEIVED_MS = MIDNIGHT + HOUR_MS
PROJECT = "aaaaaaaa"
LOBBY, OTHER = (livekit_room(PROJECT, "live", name) for name in ("lobby", "other"))
TEST_LOBBY = livekit_room(PROJECT, "test", "lobby")
# Each example empties the tables it shares with the others.
stories = settings(
    max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
seeds = st.integers(0, 1 << 32)

# Only a few, so that many events coincide: around an hour, midnight, and a second to which times are truncated.
_INSTANTS = [MIDNIGHT + at for at in (-HOUR_MS, -60_000, -1_000, -1, 0, 0, 1, 500, 999, 1_000, 2_000, 60_000, 600_000)]

_CREATED = [None, *[MIDNIGHT - HOUR_MS] * 4, *[MIDNIGHT - 60_000] * 3, MIDNIGHT]


class GeneratedRoom(NamedTuple):
    sid: str
    name: str
    created_ms: int | None
    in_seconds: bool

    def full(self) -> dict[str, str]:
        told = {"sid": self.sid, "name": self.name}
        if self.created_ms is None:
            return told
        told["creationTime"] = str(self.created_ms // 1000)
        return told if self.in_seconds else {**told, "creationTimeMs": str(self.created_ms)}


def event(name: str, at_ms: int, **parts: Any) -> Event:
    return {"event": name, "createdAt": str(at_ms // 1000), **parts}


def some(rng: Random, most: int, *names: str) -> list[str]:
    return rng.choices(names, k=rng.randint(0, most))


def stay(rng: Random, sid: str, room: GeneratedRoom, reconciled: bool) -> list[Event]:
    """Generate the events of one participant sid, some of them from reconciliation."""
    joined_ms, told = rng.choice(_INSTANTS), []
    who = {"sid": sid, "identity": rng.choice(["ada", "ada", "bob"])}
    kind = rng.choice([{}, {}, {"kind": "AGENT"}, {"kind": "EGRESS"}])
    join = rng.choice([{"joinedAtMs": str(joined_ms)}, {"joinedAt": str(joined_ms // 1000)}, {}])
    person = {**who, **kind, **join, "name": rng.choice(["Ada", "Ada L."])}

    def later() -> int:
        return max(rng.choice(_INSTANTS), joined_ms)

    for name in some(rng, 3, "joined", "joined", "left", "connection_aborted"):
        told.append(event(f"participant_{name}", later(), room=room.full(), participant=person))
    for number in range(rng.randint(0, 2)):
        track = {"sid": f"TR_{sid}_{number}", **rng.choice([{}, {"type": "VIDEO"}, {"type": "VIDEO"}])}
        track |= rng.choice([{}, {"source": "CAMERA"}, {"source": "SCREEN_SHARE"}])
        for name in some(rng, 2, "track_published", "track_unpublished"):
            # By default a track's event names its room; LiveKit 1.9.0 left it out.
            where = rng.choice([{"room": {"sid": room.sid, "name": room.name}}] * 2 + [{}])
            told.append(event(name, rng.choice(_INSTANTS), participant=who, track=track, **where))
        if reconciled and rng.random() < 0.5:
            told.append(found("relay_track_gone", later(), later(), room, who, track=track))
    for name in some(rng, 2, "seen", "gone") if reconciled else ():
        brief = who if name == "gone" else person
        told.append(found(f"relay_participant_{name}", later(), later(), room, brief))
    return told


def found(name: str, seen_ms: int, at_ms: int, room: GeneratedRoom, who: dict[str, str], **parts: Any) -> Event:
    relay = {"seenMs": seen_ms} if name.endswith("seen") else {"seenMs": seen_ms, "goneMs": at_ms}
    where = room.full() if name.endswith("seen") else {"sid": room.sid, "name": room.name}
    return event(name, max(seen_ms, at_ms), room=where, participant=who, relay=relay, **parts)


def recording(rng: Random, room: GeneratedRoom) -> list[Event]:
    """Generate the events of an egress, some of them without its room."""
    started_ms, told = rng.choice(_INSTANTS), []
    for name in some(rng, 3, "egress_started", "egress_updated", "egress_ended"):
        info: dict[str, Any] = {"egressId": f"EG_{room.sid}", **rng.choice([{"track": {}}, {}])}
        info |= rng.choice([{"startedAt": str(started_ms * 10**6)}, {}])
        info |= rng.choice([{"roomName": room.name}, {"roomName": room.name}, {}])
        told.append(event(name, max(started_ms, rng.choice(_INSTANTS)), egressInfo=info))
    return told


def history(rng: Random, reconciled: bool) -> list[Event]:
    """Generate rooms, often with equal names and creation times.

    Some are created seconds after an event that already names them.
    """
    events: list[Event] = []
    for number in range(rng.randint(2, 6)):
        name = rng.choice([LOBBY] * 6 + [OTHER, TEST_LOBBY])
        room = GeneratedRoom(f"RM_{number}", name, rng.choice(_CREATED), rng.random() < 0.5)
        for what in some(rng, 3, "room_started", "room_finished"):
            events.append(event(what, rng.choice(_INSTANTS), room=room.full()))
        for person in range(rng.randint(0, 3)):
            events += stay(rng, f"PA_{number}_{person}", room, reconciled)
        events += recording(rng, room)
    return [{**one, "id": f"EV_{index}"} for index, one in enumerate(events)]


class EventBatches(NamedTuple):
    """Events in the order of delivery, some of them repeated, cut into batches."""

    batches: list[list[Event]]

    @staticmethod
    def of(events: list[Event], rng: Random) -> "EventBatches":
        sent = [*events, *(rng.choices(events, k=rng.randint(0, 6)) if events else ())]
        # Fully mixed, or more or less room by room. Otherwise all rooms would be known after the first batch.
        turns, spread = [rng.random() for _ in range(6)], rng.choice([0.0, 0.1, 99.0])
        sent.sort(key=lambda one: turns[_room_number(one)] + spread * rng.random())
        cuts = sorted(rng.randint(0, len(sent)) for _ in range(rng.randint(0, 9)))
        return EventBatches([sent[a:b] for a, b in pairwise([0, *cuts, len(sent)])])


def _room_number(one: Event) -> int:
    sid: str = one.get("room", {}).get("sid", "RM_0")
    return int(sid.removeprefix("RM_"))


async def fold(conn: Connection, delivery: EventBatches) -> None:
    for batch in delivery.batches:
        partitions: dict[int, list[Received]] = {}
        for one in batch:
            body = json.dumps(one).encode()
            partitions.setdefault(partition_of(body), []).append(Received(RECEIVED_MS, body))
        for partition, received in partitions.items():
            for own in (False, True):
                part = [one for one in received if (b'"relay_' in one.body) == own]
                await fold_batch(conn, partition, part, own=own)


_TABLES = (
    "event, set_aside_event, session, room, media_run, usage_hour, usage_day, usage_group, usage_group_count, media_hour,"
    " concurrency, usage_change, fold_progress"
)


async def emptied(conn: Connection) -> None:
    await conn.execute(f"TRUNCATE {_TABLES}")
    await conn.execute(
        "INSERT INTO project (id, name, created_at) VALUES ($1, 'a', now()) ON CONFLICT DO NOTHING", PROJECT
    )


# Tables and how many of their last columns are amounts. A row with only zeros counts as missing.
_ROWS = {
    "event": ("created_at, id, name, project_id, mode, room, room_sid, participant_sid, identity, body", 0),
    "set_aside_event": ("body, reason", 0),
    "session": ("*", 0),
    "room": ("*", 0),
    "media_run": ("*", 0),
    "usage_hour": ("*", 5),
    "usage_day": ("*", 5),
    "usage_group": ("*", 6),
    "usage_group_count": ("*", 1),
    "media_hour": ("*", 3),
    # Without seconds that no longer have a change, and without the number of writes of a row.
    "concurrency": (
        "project_id, mode, length_ms, start_ms, (SELECT array_agg((s, c, p) ORDER BY s) FROM"
        " unnest(seconds, second_changes, second_peaks) AS u (s, c, p) WHERE (c, p) <> (0, 0)) AS pieces, change, peak",
        2,
    ),
    # Without the last change, which depends on the last batch.
    "usage_change": ("project_id, mode, day, total_participant_ms, total_video_ms", 2),
}


async def everything(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    content = {}
    for table, (columns, amounts) in _ROWS.items():
        rows = []
        for row in await conn.fetch(f"SELECT {columns} FROM {table}"):  # noqa: S608 - constants
            values = {name: msgspec.json.decode(value) if name == "state" else value for name, value in row.items()}
            if not amounts or any(list(values.values())[-amounts:]):
                rows.append(tuple(values.values()))
        content[table] = sorted(rows, key=repr)
    return content


async def differences(conn: Connection) -> list[object]:
    return [wrong.difference async for wrong in verify(conn, None, Checked(), lambda _: None)]


async def sums(conn: Connection) -> dict[Row, tuple[int, int, int, int]]:
    rows = await conn.fetch(
        "SELECT project_id, mode, hour, kind, participant_ms, video_ms, screen_share_ms, sessions FROM usage_hour"
    )
    return {Row(*row[:4]): tuple(row[4:]) for row in map(tuple, rows) if any(row[4:])}


async def levels(conn: Connection) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Return (change, peak) of the connected participants by day.

    Both are relative to the level at the day's beginning.
    """
    rows = await conn.fetch(
        "SELECT project_id, mode, start_ms, change, peak FROM concurrency WHERE length_ms = 86400000"
    )
    return {row[:3]: row[3:] for row in map(tuple, rows) if any(row[3:])}


def brute_levels(meter: Meter) -> dict[tuple[str, str, int], tuple[int, int]]:
    found = {}
    for scope in meter.intervals.keys() | meter.still_open.keys():
        spans = meter.intervals.get(scope, []) + [(start, 1 << 62) for start in meter.still_open.get(scope, [])]
        for day in {edge - edge % DAY_MS for span in spans for edge in span if edge < 1 << 62}:
            before = level_at(spans, day - 1)
            change, above = level_at(spans, day + DAY_MS - 1) - before, peak(spans, day, day + DAY_MS) - before
            if change or above:
                found[*scope, day] = change, above
    return found


@stories
@given(seeds)
async def test_usage_and_peaks_equal_the_second_meter(pool: Pool, seed: int) -> None:
    rng = Random(seed)
    events = history(rng, reconciled=False)
    async with pool.acquire() as conn:
        await emptied(conn)
        await fold(conn, EventBatches.of(events, rng))
        meter = Meter(events, RECEIVED_MS)
        assert await sums(conn) == meter.usage
        assert await levels(conn) == brute_levels(meter)


@stories
@given(seeds)
async def test_any_order_gives_equal_rows_that_verify(pool: Pool, seed: int) -> None:
    rng = Random(seed)
    events = history(rng, reconciled=True)
    async with pool.acquire() as conn:
        await emptied(conn)
        await fold(conn, EventBatches.of(events, rng))
        once = await everything(conn)
        assert await differences(conn) == []
        await emptied(conn)
        await fold(conn, EventBatches.of(events, rng))
        assert await everything(conn) == once
