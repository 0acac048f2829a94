"""Laws of the meter, over generated meetings.

Order, repetition and batching change nothing. The sums equal those of a second meter, written from the definition alone.
"""

import json
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from random import Random
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UnfoldableEvent
from shared.metering.observe import observe
from shared.metering.peak import EMPTY, Stretch, combine, daily_peaks
from shared.metering.state import Room, Session, Track, merge_room, merge_session, succession
from shared.metering.usage import interval_of, is_metered, kind_of, usage_of
from shared.models.livekit_event import decode_event
from tests.examples import examples
from tests.unit import brute_force_meter as brute
from tests.unit.brute_force_meter import Event, Meter, Row

T = TypeVar("T")
Folded = tuple[dict[str, Session], dict[str, Room]]

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 20_775 * DAY
RECEIVED_MS = MIDNIGHT + 2 * DAY
ROOMS = ("p_aaaaaaaa__lobby", "t_aaaaaaaa__lobby", "p_bbbbbbbb__a__b", "lobby", "x_aaaaaaaa__lobby")
KINDS = ("STANDARD", "STANDARD", "AGENT", "SIP", "INGRESS", "EGRESS")
laws = settings(max_examples=examples(150))

# Instants around the boundaries where errors are likely, and anywhere else.
instants = st.builds(
    int.__add__,
    st.sampled_from([MIDNIGHT - HOUR, MIDNIGHT, MIDNIGHT + HOUR]),
    st.sampled_from([-1000, -1, 0, 1, 999]) | st.integers(-5_400_000, 5_400_000),
)
lengths = st.sampled_from([0, 1, 999, 1000, MINUTE, HOUR, 26 * HOUR]) | st.integers(0, 3 * HOUR)


def event(name: str, at_ms: int, **parts: Any) -> Event:
    return {"event": name, "createdAt": str(at_ms // 1000), **parts}


@st.composite
def connections(draw: st.DrawFn, sid: str, room: dict[str, str]) -> list[Event]:
    """Generate all events that LiveKit sends about one participant sid."""
    joined_ms, length = draw(instants), draw(lengths)
    who: dict[str, str] = {"sid": sid, "identity": draw(st.sampled_from(["ada", "bob"]))}
    kind = draw(st.sampled_from(KINDS))
    full = dict(who) if kind == "STANDARD" else {**who, "kind": kind}
    for field in draw(st.sampled_from([("joinedAt", "joinedAtMs"), ("joinedAtMs",), ("joinedAt",), ()])):
        full[field] = str(joined_ms if field == "joinedAtMs" else joined_ms // 1000)
    end_ms = joined_ms + length
    active_ms = draw(st.sampled_from([joined_ms, joined_ms + 2000, end_ms]))
    events = [event("participant_joined", active_ms, room=room, participant=full)] if draw(st.booleans()) else []
    for ending in draw(
        st.sampled_from([(), ("left",), ("left",), ("connection_aborted",), ("left", "connection_aborted")])
    ):
        at_ms = end_ms + draw(st.sampled_from([0, 0, 1000, -20_000]))
        events.append(event(f"participant_{ending}", at_ms, room=room, participant=full))
    where = draw(st.sampled_from([{"room": room}, {"room": room}, {}]))
    for number in range(draw(st.integers(0, 3))):
        on_ms = joined_ms + draw(lengths) // 2 - draw(st.sampled_from([0, 0, 3000]))
        kinds = draw(st.sampled_from([{"type": "VIDEO"}, {"type": "VIDEO"}, {}, {"type": "DATA"}]))
        source = draw(st.sampled_from([{}, {"source": "CAMERA"}, {"source": "SCREEN_SHARE"}]))
        track = {"sid": f"TR_{sid}_{number}", **kinds, **source}
        track_events = [("track_published", on_ms), ("track_unpublished", on_ms + draw(lengths))]
        for name, at_ms in draw(st.sampled_from([track_events, track_events, track_events[:1], track_events[1:]])):
            # LiveKit omits a value of zero.
            reported_track = draw(st.sampled_from([track, track, {"sid": track["sid"]}]))
            events.append(event(name, at_ms, participant=who, track=reported_track, **where))
    return events


@st.composite
def meetings(draw: st.DrawFn) -> list[Event]:
    """Generate the events of a few rooms.

    The rooms belong to several projects and modes, or to no project. A sid may finish more than once. Any event may be lost.
    """
    events: list[Event] = []
    for number in range(draw(st.integers(1, 3))):
        room = {"sid": f"RM_{number}", "name": draw(st.sampled_from(ROOMS))}
        for person in range(draw(st.integers(0, 3))):
            events += draw(connections(f"PA_{number}_{person}", room))
        for opened_ms in draw(st.lists(instants, max_size=2)):
            events.append(event("room_started", opened_ms, room=room))
            events.append(event("room_finished", opened_ms + draw(lengths), room=room))
        if draw(st.booleans()):
            liar = {"sid": f"PA_{number}_0", "joinedAtMs": str(draw(instants) + 4 * DAY)}
            events.append(event("participant_left", draw(instants) + 4 * DAY, room=room, participant=liar))
            events.append(event("participant_left", draw(instants), room=room, participant=liar))
    lost = draw(st.sets(st.integers(0, max(0, len(events) - 1)), max_size=4))
    kept = [{**one, "id": f"EV_{index}"} for index, one in enumerate(events) if index not in lost]
    return sorted(kept, key=lambda one: int(one["createdAt"]))


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """Generate a meeting, and its events in any order and batches, with repetitions."""
    events = draw(meetings())
    again = draw(st.lists(st.sampled_from(events), max_size=8)) if events else []
    sent = draw(st.permutations([*events, *again]))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=4)))
    return events, [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


def fold(events: Iterable[Event]) -> Folded:
    states: Folded = ({}, {})
    for one in events:
        try:
            seen = observe(decode_event(json.dumps(one).encode()), RECEIVED_MS)
        except UnfoldableEvent:
            continue
        sessions = {seen.session.sid: seen.session} if seen.session else {}
        states = merge_states(states, (sessions, {seen.room.sid: seen.room} if seen.room else {}))
    return states


def merge_states(a: Folded, b: Folded) -> Folded:
    sessions, rooms = dict(a[0]), dict(a[1])
    for sid, session in b[0].items():
        sessions[sid] = merge_session(sessions[sid], session) if sid in sessions else session
    for sid, room in b[1].items():
        rooms[sid] = merge_room(rooms[sid], room) if sid in rooms else room
    return sessions, rooms


def room_of(session: Session, rooms: dict[str, Room]) -> Room | None:
    return rooms.get(session.room_sid or "")


def rollups(states: Folded) -> dict[Row, tuple[int, int, int, int]]:
    """Return (participant ms, video ms, screen share ms, sessions begun) by row."""
    sums: dict[Row, tuple[int, int, int, int]] = {}
    for session in states[0].values():
        for hour, usage in usage_of(session, room_of(session, states[1])).items():
            row = Row(str(session.project_id), str(session.mode), hour, kind_of(session))
            before = sums.get(row, (0, 0, 0, 0))
            amounts = (usage.participant_ms, usage.video_ms, usage.screen_share_ms, usage.sessions)
            sums[row] = tuple(map(add, before, amounts))
    return sums


@laws
@given(deliveries())
def test_fold_is_independent_of_order_repetition_and_batches(delivery: tuple[list[Event], list[list[Event]]]) -> None:
    events, batches = delivery
    once = fold(events)
    in_batches = reduce(merge_states, map(fold, batches))
    assert in_batches == once
    assert rollups(in_batches) == rollups(once)
    assert reduce(merge_states, map(fold, reversed(batches))) == once


@laws
@given(deliveries())
def test_rollups_equal_those_of_the_brute_force_meter(delivery: tuple[list[Event], list[list[Event]]]) -> None:
    events, batches = delivery
    assert rollups(reduce(merge_states, map(fold, batches))) == Meter(events, RECEIVED_MS).usage


@laws
@given(meetings(), instants)
def test_usage_equals_the_interval_and_contains_the_video(events: list[Event], now_ms: int) -> None:
    sessions, rooms = fold(events)
    for session in sessions.values():
        room = room_of(session, rooms)
        usage = usage_of(session, room, now_ms)
        assert all(0 <= hour.screen_share_ms <= hour.video_ms <= hour.participant_ms <= HOUR for hour in usage.values())
        assert all(hour % HOUR == 0 for hour in usage)
        interval = interval_of(session, room)
        length = 0
        if interval is not None and is_metered(session):
            length = max(0, (now_ms if interval.end_ms is None else interval.end_ms) - interval.start_ms)
            assert interval.end_ms is None or interval.end_ms >= interval.start_ms
        assert sum(hour.participant_ms for hour in usage.values()) == length


maybe_ms = st.none() | st.integers(0, 3)
maybe_text = st.none() | st.sampled_from(["a", "b"])
tracks = st.builds(
    Track,
    st.sampled_from(["AUDIO", "VIDEO"]),
    st.sampled_from(["CAMERA", "SCREEN_SHARE", "UNKNOWN"]),
    *[maybe_ms] * 4,
)
sessions_of_a_sid = st.builds(
    Session,
    sid=st.just("PA"),
    **dict.fromkeys(("project_id", "room", "room_sid", "identity", "name", "kind", "disconnect_reason"), maybe_text),
    **dict.fromkeys(
        ("joined_ms", "first_seen_ms", "active_ms", "left_ms", "aborted_ms", "sighted_ms", "gone_ms"), maybe_ms
    ),
    mode=st.sampled_from([None, "live", "test"]),
    tracks=st.dictionaries(st.sampled_from(["TR_1", "TR_2"]), tracks),
)
rooms_of_a_sid = st.builds(
    Room,
    sid=st.just("RM"),
    name=maybe_text,
    project_id=maybe_text,
    mode=st.sampled_from([None, "live", "test"]),
    created_ms=maybe_ms,
    finished_ms=st.sets(st.integers(0, 3)).map(lambda times: tuple(sorted(times))),
    superseded_ms=maybe_ms,
)


@laws
@given(sessions_of_a_sid, sessions_of_a_sid, sessions_of_a_sid)
def test_session_merge_is_idempotent_commutative_and_associative(a: Session, b: Session, c: Session) -> None:
    assert merge_session(a, a) == a
    assert merge_session(a, b) == merge_session(b, a)
    assert merge_session(merge_session(a, b), c) == merge_session(a, merge_session(b, c))
    assert merge_session(a, Session(sid="PA")) == a


@laws
@given(rooms_of_a_sid, rooms_of_a_sid, rooms_of_a_sid)
def test_room_merge_is_idempotent_commutative_and_associative(a: Room, b: Room, c: Room) -> None:
    assert merge_room(a, a) == a
    assert merge_room(a, b) == merge_room(b, a)
    assert merge_room(merge_room(a, b), c) == merge_room(a, merge_room(b, c))
    assert merge_room(a, Room(sid="RM")) == a


namesakes = st.lists(
    st.builds(Room, sid=st.sampled_from("abcd"), name=st.sampled_from([None, "x", "y"]), created_ms=maybe_ms),
    unique_by=lambda room: room.sid,
)


@laws
@given(namesakes, st.randoms(use_true_random=False))
def test_room_succession_is_independent_of_arrival_order(rooms: list[Room], order: Random) -> None:
    """Applying succession after each new room gives the same result as applying it once to all rooms."""
    known: dict[str, Room] = {}
    for room in order.sample(rooms, len(rooms)):
        known[room.sid] = room
        for superseded in succession(known.values()):
            known[superseded.sid] = merge_room(known[superseded.sid], superseded)
    for room in rooms:
        later = [
            other.created_ms
            for other in rooms
            if other.name
            and other.name == room.name
            and (other.created_ms or 0) > (9 if room.created_ms is None else room.created_ms)
        ]
        assert known[room.sid].superseded_ms == min(filter(None, later), default=None), rooms


def test_empty_strings_in_events_are_stored_as_none() -> None:
    """An empty string means "never seen". As a separate value it would make merging depend on the order."""
    who = {"sid": "PA", "identity": "", "name": "", "kind": "", "disconnectReason": ""}
    left = event("participant_left", MIDNIGHT, room={"sid": "RM", "name": ""}, participant=who)
    session = fold([left])[0]["PA"]
    assert (session.identity, session.name, session.kind, session.disconnect_reason) == (None,) * 4


def test_missing_track_source_does_not_overwrite_a_known_one() -> None:
    """UNKNOWN sorts after SCREEN_SHARE, but is no information about the source."""
    room, who = {"sid": "RM", "name": ROOMS[0]}, {"sid": "PA", "joinedAtMs": str(MIDNIGHT)}
    left = event("participant_left", MIDNIGHT + MINUTE, room=room, participant=who)
    shared = {"sid": "TR", "type": "VIDEO", "source": "SCREEN_SHARE"}
    on = event("track_published", MIDNIGHT, room=room, participant=who, track=shared)
    off = event("track_unpublished", MIDNIGHT + 1000, room=room, participant=who, track={"sid": "TR"})
    for order in ([left, on, off], [off, on, left]):
        assert [usage.screen_share_ms for usage in usage_of(fold(order)[0]["PA"], None).values()] == [1000]


def stretch(intervals: Sequence[tuple[int, int]], begin: int, end: int) -> Stretch:
    """Compute the stretch from its definition.

    It is the level over ``[begin, end)`` relative to the instant ``begin - 1``.
    """
    before = brute.level_at(list(intervals), begin - 1)
    levels = [brute.level_at(list(intervals), at) - before for at in range(begin, end)]
    return Stretch(levels[-1], max(levels))


def in_any_brackets(draw: st.DataObject, pieces: list[Stretch]) -> Stretch:
    while len(pieces) > 1:
        at = draw.draw(st.integers(0, len(pieces) - 2))
        pieces[at : at + 2] = [combine(pieces[at], pieces[at + 1])]
    return pieces[0]


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


@laws
@given(st.data(), spans)
def test_daily_peaks_can_be_combined_from_minutes(draw: st.DataObject, intervals: list[tuple[int, int]]) -> None:
    """A minute has 5 instants and a day 4 minutes here.

    Sessions that continue from an earlier day count. At the same instant, ends come before starts.
    """
    days = range(0, 60, 20)
    peaks = [
        in_any_brackets(draw, [stretch(intervals, minute, minute + 5) for minute in range(day, day + 20, 5)])
        for day in days
    ]
    assert daily_peaks(brute.level_at(intervals, -1), peaks) == [brute.peak(intervals, day, day + 20) for day in days]
    carried_in = brute.level_at(intervals, days[1] - 1)
    assert daily_peaks(carried_in, peaks[1:]) == [brute.peak(intervals, day, day + 20) for day in days[1:]]


@laws
@given(spans, st.integers(1, 60))
def test_minute_without_start_or_end_is_the_empty_stretch(intervals: list[tuple[int, int]], begin: int) -> None:
    """Minutes without a start or an end are not stored. Read as EMPTY, they must change no peak."""
    quiet = not any(begin <= edge < begin + 5 for start, end in intervals if start < end for edge in (start, end))
    assert not quiet or stretch(intervals, begin, begin + 5) == EMPTY


@laws
@given(meetings())
def test_intervals_equal_those_of_the_brute_force_meter(events: list[Event]) -> None:
    sessions, rooms = fold(events)
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for session in sessions.values():
        interval = interval_of(session, room_of(session, rooms)) if is_metered(session) else None
        if interval and interval.end_ms is not None and interval.end_ms > interval.start_ms:
            scope = (str(session.project_id), str(session.mode))
            found.setdefault(scope, []).append((interval.start_ms, interval.end_ms))
    wanted = Meter(events, RECEIVED_MS).intervals
    assert {scope: sorted(spans) for scope, spans in found.items()} == {s: sorted(i) for s, i in wanted.items()}
