"""Any event folds in bounded time and memory and keeps the laws of the merge.

The only error is ``UnfoldableEvent``.
"""

import json
import time
import tracemalloc
from functools import reduce
from itertools import pairwise
from operator import add
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UnfoldableEvent
from shared.infra.clock import DAY_MS, HOUR_MS, MINUTE_MS, floor_to
from shared.metering.bounds import MAX_AGE_MS
from shared.metering.hours import LONG_MS, MAX_SESSION_MS, Levels, RunningLevels, Usage, cut_into_hours, days_of
from shared.metering.observe import Observation, observe
from shared.metering.run_usage import run_bill_of, usage_of_run
from shared.metering.state import MAX_FINISHES, MAX_TRACKS, MediaRun, Room, Session, Track, merge_room, merge_session
from shared.metering.usage import bill_of, bill_until, interval_of, track_intervals, usage_of
from shared.models.livekit_event import OwnEvent, decode_event, decode_kept_event, decode_own_event
from tests.examples import examples

NOW = 1_795_000_000_000
YEAR = 366 * DAY_MS
PERSON = {"sid": "PA_1", "identity": "ada"}
ROOM = {"sid": "RM_1", "name": "p_aaaaaaaa__lobby"}

far = (
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 9 * 10**15, 10**30, NOW, NOW // 1000]) | st.integers()
)
# Times as LiveKit sends them, and other values that an event could contain instead.
times: st.SearchStrategy[Any] = (
    far | far.map(str) | st.sampled_from(["", "x", "1e9", "-0", None, True, [], {}, 1.5, "9" * 400])
)
texts = st.sampled_from(
    ["", "PA_1", "RM_1", "p_aaaaaaaa__lobby", "relay_participant_seen", "\0", "x" * 3000]
) | st.text(max_size=5)
odd = st.recursive(texts | times, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
people = st.fixed_dictionaries(
    {"sid": texts | st.just("PA_1")},
    optional={
        "identity": texts,
        "name": texts,
        "kind": odd,
        "joinedAt": times,
        "joinedAtMs": times,
        "tracks": odd,
        "metadata": texts,
        "disconnectReason": odd,
    },
)
events = st.fixed_dictionaries(
    {
        "event": texts
        | st.sampled_from(
            [
                "participant_joined",
                "participant_left",
                "participant_connection_aborted",
                "track_published",
                "room_finished",
                "egress_ended",
                "ingress_started",
                "relay_participant_seen",
                "relay_participant_gone",
                "relay_track_gone",
                "relay_egress_gone",
            ]
        ),
        "createdAt": times | st.just(str(NOW // 1000)) | st.just(str(NOW // 1000)),
    },
    optional={
        "id": texts,
        "room": st.just(ROOM) | odd | st.fixed_dictionaries({"sid": texts, "name": texts, "creationTimeMs": times}),
        "participant": people | odd,
        "track": st.fixed_dictionaries({"sid": texts, "type": odd}) | odd,
        "egressInfo": st.fixed_dictionaries(
            {"egressId": texts}, optional={"startedAt": times, "endedAt": times, "web": odd}
        ),
        "ingressInfo": st.fixed_dictionaries(
            {"ingressId": texts}, optional={"state": st.fixed_dictionaries({"startedAt": times, "endedAt": times})}
        ),
        "relay": st.fixed_dictionaries({"seenMs": times, "goneMs": times}) | odd,
    },
)


def seen_in(event: dict[str, Any]) -> list[Observation]:
    """Observe the event as a webhook, as a kept event and as an event of reconciliation."""
    found = []
    for decode in (decode_event, decode_kept_event, decode_own_event):
        try:
            found.append(observe(decode(json.dumps(event).encode()), NOW))
        except (UnfoldableEvent, msgspec.DecodeError):
            continue
    return found


@settings(max_examples=examples(400), deadline=2000)
@given(events)
def test_arbitrary_event_is_refused_or_has_a_bounded_bill(event: dict[str, Any]) -> None:
    for seen in seen_in(event):
        if seen.session is not None:
            bill = bill_until(seen.session, seen.room, NOW)
            assert len(bill.usage) + len(bill.whole) < 20
            assert bill.total().participant_ms <= MAX_SESSION_MS
        if seen.run is not None:
            assert len(run_bill_of(seen.run, NOW).usage) < 4


@settings(max_examples=examples(150), deadline=2000)
@given(st.lists(events, max_size=6), st.randoms(use_true_random=False))
def test_merge_of_malformed_events_is_independent_of_order_and_repetition(
    sent: list[dict[str, Any]], rng: Random
) -> None:
    states = [seen.session for event in sent for seen in seen_in(event) if seen.session is not None]
    by_sid = [msgspec.structs.replace(state, sid="PA_1") for state in states]
    if not by_sid:
        return
    once = reduce(merge_session, by_sid, by_sid[0])
    again = [*by_sid, *rng.sample(by_sid, len(by_sid))]
    rng.shuffle(again)
    assert reduce(merge_session, again, again[0]) == once


@pytest.mark.parametrize("field", ["seenMs", "goneMs"])
@pytest.mark.parametrize("at_ms", [9 * 10**15, -1, 1, NOW + DAY_MS])
def test_implausible_times_in_reconciliation_events_are_refused(field: str, at_ms: int) -> None:
    body = {"event": "relay_participant_gone", "createdAt": NOW // 1000, "participant": PERSON, "relay": {field: at_ms}}
    with pytest.raises(UnfoldableEvent):
        observe(decode_own_event(json.dumps(body).encode()), NOW)


@pytest.mark.parametrize("name", ["participant_left", "track_published", "egress_ended", "relay_participant_gone"])
def test_webhooks_cannot_set_reconciliation_fields(name: str) -> None:
    body = {
        "event": name,
        "createdAt": NOW // 1000,
        "participant": PERSON,
        "track": {"sid": "TR_1"},
        "egressInfo": {"egressId": "EG_1"},
        "relay": {"seenMs": NOW - 1, "goneMs": NOW},
    }
    event = decode_event(json.dumps(body).encode())
    assert not isinstance(event, OwnEvent)
    seen = observe(event, NOW)
    for state in (seen.session, seen.run):
        assert state is None or (state.sighted_ms, state.gone_ms) == (None, None)


@pytest.mark.parametrize(
    ("reason", "created_ms", "joined_ms"),
    [
        ("too_old", NOW - MAX_AGE_MS - 1000, NOW - MAX_AGE_MS - 1000),
        ("too_long", NOW, 1_577_836_800_000),
        ("too_long", NOW, NOW - MAX_SESSION_MS - 1000),
        (None, NOW, NOW - MAX_SESSION_MS),
    ],
)
def test_times_outside_the_plausible_window_are_refused(reason: str | None, created_ms: int, joined_ms: int) -> None:
    who = {**PERSON, "joinedAtMs": str(joined_ms)}
    body = json.dumps({"event": "participant_left", "createdAt": created_ms // 1000, "room": ROOM, "participant": who})
    event = decode_event(body.encode())
    if reason is None:
        assert observe(event, NOW).session is not None
        return
    with pytest.raises(UnfoldableEvent) as refused:
        observe(event, NOW)
    assert refused.value.reason == reason


# Any stored state: before events had bounds, any time could be stored.
state_times = st.none() | st.integers(NOW - 3 * YEAR, NOW + YEAR) | st.sampled_from([0, 9 * 10**15, 2**63 - 1])
tracks = st.builds(
    Track, st.sampled_from(["VIDEO", "AUDIO"]), st.sampled_from(["CAMERA", "SCREEN_SHARE"]), state_times, state_times
)
stored = st.builds(
    Session,
    sid=st.just("PA_1"),
    project_id=st.just("aaaaaaaa"),
    mode=st.just("live"),
    joined_ms=state_times,
    first_seen_ms=state_times,
    left_ms=state_times,
    sighted_ms=state_times,
    gone_ms=state_times,
    tracks=st.dictionaries(st.sampled_from(["TR_1", "TR_2", "TR_3"]), tracks, max_size=3),
)


@settings(deadline=500)
@given(stored)
def test_any_stored_session_has_a_bounded_bill(session: Session) -> None:
    bill = bill_of(session, None)
    assert len(bill.usage) + len(bill.whole) <= 30
    assert bill.total().participant_ms <= MAX_SESSION_MS


def by_single_hours(session: Session) -> dict[int, Usage]:
    """Compute usage from the definition, hour by hour."""
    interval = interval_of(session, None)
    assert interval is not None
    assert interval.end_ms is not None
    start_ms, end_ms = interval.start_ms, interval.end_ms
    usage = {floor_to(start_ms, HOUR_MS): Usage(0, 0, 0, 0, 1)}
    for hour_ms, begin, end in cut_into_hours(start_ms, end_ms):
        video = sum(b - a for a, b in track_intervals(session, begin, end))
        screen = sum(b - a for a, b in track_intervals(session, begin, end, lambda one: one.source == "SCREEN_SHARE"))
        started = usage[hour_ms].sessions if hour_ms in usage else 0
        usage[hour_ms] = Usage(
            end - begin, video, screen, end - begin if interval.ended_by == "reconciled" else 0, started
        )
    return usage


edges = st.integers(0, 30 * 24).map(lambda hours: NOW - NOW % DAY_MS - hours * HOUR_MS) | st.integers(
    NOW - 30 * DAY_MS, NOW
)
long_sessions = st.builds(
    Session,
    sid=st.just("PA_1"),
    project_id=st.just("aaaaaaaa"),
    mode=st.just("live"),
    joined_ms=edges.map(lambda at: at - 30 * DAY_MS),
    left_ms=st.none() | edges,
    sighted_ms=edges,
    gone_ms=st.just(NOW + 1),
    tracks=st.dictionaries(
        st.sampled_from("abcd"),
        st.builds(Track, st.just("VIDEO"), st.sampled_from(["CAMERA", "SCREEN_SHARE"]), edges, st.none() | edges),
    ),
)


@given(long_sessions)
def test_bill_with_whole_hours_equals_hour_by_hour_usage(session: Session) -> None:
    assert usage_of(session, None) == by_single_hours(session)
    bill = bill_of(session, None)
    assert bill.total() == Usage(*map(sum, zip(*by_single_hours(session).values(), strict=True)))
    parts, days = days_of(bill.whole)
    daily: dict[int, Usage] = {}
    for day_ms, amounts in (
        *((floor_to(hour_ms, DAY_MS), amounts) for hour_ms, amounts in bill.usage.items()),
        *parts,
        *((day_ms, amounts) for from_ms, to_ms, amounts in days for day_ms in range(from_ms, to_ms, DAY_MS)),
    ):
        daily[day_ms] = Usage(*map(add, daily.get(day_ms, Usage(0, 0)), amounts))
    right: dict[int, Usage] = {}
    for hour_ms, amounts in by_single_hours(session).items():
        day_ms = floor_to(hour_ms, DAY_MS)
        right[day_ms] = Usage(*map(add, right.get(day_ms, Usage(0, 0)), amounts))
    assert daily == right


@given(edges, st.integers(0, 400 * DAY_MS), st.booleans())
def test_usage_of_a_media_run_equals_hour_by_hour_usage(started_ms: int, length: int, inferred: bool) -> None:
    end_ms = started_ms + length
    ended = {"sighted_ms": end_ms, "gone_ms": end_ms + 1} if inferred else {"ended_ms": end_ms}
    run = msgspec.structs.replace(
        MediaRun(id="EG_1", meter="egress", project_id="aaaaaaaa", mode="live", started_ms=started_ms), **ended
    )
    usage = usage_of_run(run)
    right = {floor_to(started_ms, HOUR_MS): (0, 0, 1)}
    for hour_ms, begin, end in cut_into_hours(started_ms, min(end_ms, started_ms + MAX_SESSION_MS)):
        runs = right[hour_ms][2] if hour_ms in right else 0
        right[hour_ms] = (end - begin, end - begin if inferred else 0, runs)
    assert usage == right


ranges = st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 9), st.integers(1, 3))


@given(st.lists(ranges, max_size=9))
def test_levels_equal_the_sums_of_their_ranges(added: list[tuple[str, int, int, int]]) -> None:
    levels, running = Levels[str](), RunningLevels[str]()
    right: dict[tuple[str, int], int] = {}
    for key, start, length, amount in added:
        levels.add(key, start * MINUTE_MS, (start + length) * MINUTE_MS, (amount,))
        running.add(key, start * MINUTE_MS, (start + length) * MINUTE_MS, (amount,))
        for minute in range(start, start + length):
            right[key, minute * MINUTE_MS] = right.get((key, minute * MINUTE_MS), 0) + amount
    assert {(key, at): amounts[0] for key, at, amounts in levels.rows(MINUTE_MS)} == right
    seen = {
        (key, at): amounts[0] for at in range(0, 20 * MINUTE_MS, MINUTE_MS) for key, amounts in running.at(at).items()
    }
    assert seen == right
    for key, start, length, amount in added:
        levels.add(key, start * MINUTE_MS, (start + length) * MINUTE_MS, (amount,), -1)
    assert list(levels.rows(MINUTE_MS)) == []


def test_bill_size_does_not_grow_with_session_length() -> None:
    def pieces(length: int) -> int:
        session = Session(sid="PA_1", project_id="a", mode="live", joined_ms=NOW - length, left_ms=NOW)
        bill = bill_of(session, None)
        return len(bill.usage) + len(bill.whole)

    assert pieces(YEAR) == pieces(LONG_MS + DAY_MS) == 3


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 1 << 32))
def test_number_of_tracks_is_bounded_in_any_merge_order(seed: int) -> None:
    rng = Random(seed)
    sids = [f"TR_{rng.randrange(3 * MAX_TRACKS)}" for _ in range(2 * MAX_TRACKS)]
    observed = [
        Session(
            sid="PA_1", tracks={sid: Track("VIDEO", "CAMERA", rng.randrange(9), rng.choice([None, 10])) for sid in some}
        )
        for some in (sids[at : at + 100] for at in range(0, len(sids), 100))
    ]
    once = reduce(merge_session, observed)
    rng.shuffle(observed)
    cuts = sorted({0, *(rng.randrange(len(observed)) for _ in range(3)), len(observed)})
    batches = [reduce(merge_session, observed[a:b]) for a, b in pairwise(cuts)]
    again = reduce(merge_session, [*batches, batches[0]])
    assert again == once
    assert len(once.tracks) == min(MAX_TRACKS, len(set(sids)))
    assert merge_session(once, once) == once


def test_number_of_room_ends_is_bounded_in_any_merge_order() -> None:
    observed = [Room(sid="RM_1", finished_ms=(at,)) for at in range(MAX_FINISHES + 500)]
    once = reduce(merge_room, observed)
    assert reduce(merge_room, observed[::-1]) == once == merge_room(once, once)
    assert len(once.finished_ms) == MAX_FINISHES


LARGE: dict[str, bytes] = {
    "metadata of control characters": b'"metadata":"' + rb"\u0001" * 1_300_000 + b'"',
    "tracks without end": b'"tracks":[' + b"{}," * 2_500_000 + b"{}]",
    "an unknown field": b'"x":[' + b"[]," * 2_500_000 + b"[]]",
}


@pytest.mark.parametrize("what", LARGE)
def test_large_event_is_observed_in_bounded_memory_and_time(what: str) -> None:
    body = (
        b'{"event":"participant_left","id":"EV_1","createdAt":"%d","room":{"sid":"RM_1","name":"p_aaaaaaaa__lobby"},'
        b'"participant":{"sid":"PA_1","identity":"ada",%s}}' % (NOW // 1000, LARGE[what])
    )
    tracemalloc.start()
    started = time.process_time()
    seen = observe(decode_event(body), NOW)
    took = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.session is not None
    assert seen.session.left_ms == NOW
    assert peak < 2_000_000
    assert took < 1


def test_large_egress_request_is_not_decoded() -> None:
    body = b'{"event":"egress_ended","createdAt":"%d","egressInfo":{"egressId":"EG_1","web":{"a":[%s0]}}}' % (
        NOW // 1000,
        b"[]," * 2_500_000,
    )
    tracemalloc.start()
    seen = observe(decode_event(body), NOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.run is not None
    assert seen.run.type == "web"
    assert peak < 2_000_000
