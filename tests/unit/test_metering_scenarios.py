"""Known metering errors, one test or more for each number.

Each test shows what the naive meter (tests/naive_meter.py) bills and what is correct. The naive meter stores the join and
subtracts it at the leave. Errors that need a database or LiveKit are in
tests/integration/test_metering_scenarios_stored.py.
"""

from typing import Any

import pytest

from shared.errors import UnfoldableEvent
from shared.metering.bounds import FUTURE_TOLERANCE_MS
from shared.metering.observe import observe
from shared.metering.peak import EMPTY, Stretch, combine, daily_peaks
from shared.metering.rounding import Amounts, Rounding, Shown, millionths
from shared.metering.usage import Interval, interval_of, usage_of
from shared.models.livekit_event import decode_event
from tests.livekit_bodies import body, participant
from tests.naive_meter import NaiveMeter
from tests.unit.brute_force_meter import Event
from tests.unit.test_metering_properties import DAY, HOUR, MIDNIGHT, RECEIVED_MS, event, fold, rollups

NOON = MIDNIGHT + 12 * HOUR
SECOND, MINUTE = 1000, 60_000
LOBBY = {"sid": "RM_1", "name": "p_aaaaaaaa__lobby"}
CAMERA = {"sid": "TR_1", "type": "VIDEO", "source": "CAMERA"}
SCREEN = {"sid": "TR_2", "type": "VIDEO", "source": "SCREEN_SHARE"}
VOICE = {"sid": "TR_3", "source": "MICROPHONE"}


def of(name: str, at_ms: int, joined_ms: int = NOON, *, sid: str = "PA_1", room: Any = LOBBY, **more: Any) -> Event:
    """Build a participant event of ada, who connected at ``joined_ms``."""
    return event(f"participant_{name}", at_ms, room=room, participant=participant(sid, "ada", joined_ms, **more))


def track(name: str, at_ms: int, what: dict[str, str], sid: str = "PA_1") -> Event:
    return event(f"track_{name}", at_ms, room=LOBBY, participant={"sid": sid, "identity": "ada"}, track=what)


def room(name: str, at_ms: int, sid: str = "RM_1") -> Event:
    return event(f"room_{name}", at_ms, room={**LOBBY, "sid": sid})


def billed(*events: Event) -> tuple[int, int]:
    """Return the total (participant ms, video ms) that Relay bills."""
    rows = rollups(fold(events)).values()
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def naive(*events: Event) -> tuple[int, int]:
    """Return the (participant ms, video ms) that the naive meter bills."""
    meter = NaiveMeter(events)
    return meter.participant_ms, meter.video_ms


def interval(*events: Event, sid: str = "PA_1") -> Interval | None:
    sessions, rooms = fold(events)
    return interval_of(sessions[sid], rooms.get(sessions[sid].room_sid or ""))


def test_01_lost_joined_is_replaced_by_the_joining_time_in_left() -> None:
    """Naive: bills 0, because no join is stored.

    ``left`` contains the joining time, so it alone proves the session.
    """
    assert naive(of("left", NOON + MINUTE)) == (0, 0)
    assert billed(of("left", NOON + MINUTE)) == (MINUTE, 0)


def test_01_lost_joined_without_joining_time_starts_at_the_first_track() -> None:
    """Naive: bills 0. The earliest track event proves that the participant was present."""
    left = event("participant_left", NOON + MINUTE, room=LOBBY, participant={"sid": "PA_1", "identity": "ada"})
    assert naive(track("published", NOON, CAMERA), left) == (0, 0)
    assert billed(track("published", NOON, CAMERA), left) == (MINUTE, MINUTE)


def test_02_lost_left_ends_the_session_with_its_room() -> None:
    """Naive: the session never ends, or is never billed. For ending sessions by room name, see 16."""
    joined = of("joined", NOON)
    assert naive(joined) == (0, 0)
    assert NaiveMeter([joined]).until(NOON + DAY) == DAY
    assert billed(joined, room("finished", NOON + MINUTE)) == (MINUTE, 0)


def test_02_late_left_overrides_the_end_of_the_room() -> None:
    """Naive: the end that arrives first counts, 60 s.

    ``left`` is better evidence, whether it is earlier or later.
    """
    for left_ms in (NOON + 30 * SECOND, NOON + 90 * SECOND):
        events = (of("joined", NOON), room("finished", NOON + MINUTE), of("left", left_ms))
        assert naive(*events) == (MINUTE, 0)
        assert interval(*events) == Interval(NOON, left_ms, "left")


def test_03_left_that_arrives_before_joined_is_billed() -> None:
    """Naive: the leave finds no session and is dropped. The join that follows never ends."""
    backwards = NaiveMeter([of("left", NOON + MINUTE), of("joined", NOON)])
    assert (backwards.participant_ms, backwards.until(NOON + DAY)) == (0, DAY)
    assert billed(of("left", NOON + MINUTE), of("joined", NOON)) == (MINUTE, 0)


@pytest.mark.parametrize("joined_ms", [NOON + 5 * SECOND, NOON + 6 * SECOND])
def test_04_abort_with_a_joined_not_before_it_is_not_billed(joined_ms: int) -> None:
    """Naive: the ``joined`` after the abort opens a session that nothing ends.

    It is a race inside LiveKit and no usage.
    """
    events = [of("connection_aborted", NOON + 5 * SECOND), of("joined", joined_ms), room("finished", NOON + HOUR)]
    assert naive(*events)[0] == NOON + HOUR - NOON
    assert billed(*events) == billed(*reversed(events)) == (0, 0)
    assert interval(*events) is None


@pytest.mark.parametrize(
    "proof",
    [of("joined", NOON + SECOND), track("published", NOON + SECOND, VOICE), track("unpublished", NOON + SECOND, VOICE)],
    ids=["joined earlier", "published", "unpublished"],
)
def test_05_connected_session_is_billed_until_its_abort(proof: Event) -> None:
    """Naive: an abort is no usage.

    This participant was connected before the abort (a failed migration). The session counts until the abort and is marked.
    An unpublish whose publish event was lost proves the connection too.
    """
    events = (proof, of("connection_aborted", NOON + MINUTE))
    assert naive(*events) == (0, 0)
    assert interval(*events) == Interval(NOON, NOON + MINUTE, "aborted")
    assert billed(*events) == (MINUTE, 0)


def test_06_duplicate_events_are_billed_once() -> None:
    """Naive: bills the second ``left`` again, or opens a second session for the second ``joined``."""
    joined, left = of("joined", NOON), of("left", NOON + MINUTE)
    assert naive(joined, left, left, joined, left) == (2 * MINUTE, 0)
    assert billed(joined, left, left, joined, left) == billed(joined, left) == (MINUTE, 0)


def test_07_late_left_of_a_replaced_connection_keeps_the_new_session() -> None:
    """Naive: keys sessions by identity, so the late ``left`` of the old connection ends the new session."""
    old, new = of("joined", NOON), of("joined", NOON + MINUTE, NOON + MINUTE, sid="PA_2")
    old_left = of("left", NOON + MINUTE + 2 * SECOND, disconnectReason="DUPLICATE_IDENTITY")
    new_left = of("left", NOON + HOUR, NOON + MINUTE, sid="PA_2")
    assert naive(old, new, old_left, new_left) == (2 * SECOND, 0)
    assert interval(old, new, old_left, sid="PA_2") == Interval(NOON + MINUTE, None, None)
    assert billed(old, new, old_left, new_left) == (MINUTE + 2 * SECOND + HOUR - MINUTE, 0)


def test_08_session_under_a_second_is_never_negative() -> None:
    """Naive: bills -700 ms, because ``createdAt`` is floored to the second and the joining time is not."""
    assert naive(of("joined", NOON + 700, NOON + 700), of("left", NOON + 900, NOON + 700)) == (-700, 0)
    assert billed(of("joined", NOON + 700, NOON + 700), of("left", NOON + 900, NOON + 700)) == (0, 0)
    assert interval(of("left", NOON, NOON + 700)) == Interval(NOON + 700, NOON + 700, "left")


def test_09_arrival_time_does_not_affect_usage() -> None:
    """Naive: usage depends on Relay's clock and on the delay of each delivery."""
    by_arrival = NaiveMeter()
    by_arrival.take(of("joined", NOON), arrived_ms=NOON)
    by_arrival.take(of("left", NOON + MINUTE), arrived_ms=NOON + 9 * DAY)
    assert by_arrival.participant_ms == 9 * DAY
    assert billed(of("joined", NOON), of("left", NOON + MINUTE)) == (MINUTE, 0)
    raw = body(
        "participant_left", "EV_1", (NOON + MINUTE) // 1000, room=LOBBY, participant=participant("PA", "ada", NOON)
    )
    seen = [observe(decode_event(raw), received_ms) for received_ms in (NOON, RECEIVED_MS, RECEIVED_MS + 9 * DAY)]
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(
    ("reason", "at_ms", "joined_ms"),
    [
        ("from_the_future", RECEIVED_MS + FUTURE_TOLERANCE_MS + SECOND, NOON),
        ("end_before_start", NOON, NOON + 6 * SECOND),
        ("no_time", NOON, 90 * SECOND),
        ("no_time", 0, NOON),
    ],
)
def test_09_event_with_an_impossible_time_is_refused(reason: str, at_ms: int, joined_ms: int) -> None:
    """Naive: bills a year or a negative amount.

    Relay sets the whole event aside and keeps the rest of the session.
    """
    lie = of("left", at_ms, joined_ms)
    assert naive(of("joined", at_ms, joined_ms), lie)[0] == at_ms // SECOND * SECOND - joined_ms != MINUTE
    raw = body(lie["event"], "EV_1", at_ms // 1000, room=LOBBY, participant=lie["participant"])
    with pytest.raises(UnfoldableEvent) as refused:
        observe(decode_event(raw), RECEIVED_MS)
    assert refused.value.reason == reason
    assert billed(of("left", NOON + MINUTE), lie) == (MINUTE, 0)


def test_10_session_over_midnights_is_split_by_hour() -> None:
    """Naive: bills the whole session on the day of the join (or of the leave)."""
    start, end = MIDNIGHT - 90 * SECOND, MIDNIGHT + DAY + 1 * SECOND
    assert NaiveMeter([of("joined", start, start), of("left", end, start)]).by_day == {MIDNIGHT + DAY: end - start}
    hours = {row.hour: usage[0] for row, usage in rollups(fold([of("left", end, start)])).items()}
    assert hours[MIDNIGHT - HOUR] == 90 * SECOND
    assert sum(ms for hour, ms in hours.items() if MIDNIGHT <= hour < MIDNIGHT + DAY) == DAY
    assert hours[MIDNIGHT + DAY] == SECOND
    assert len(hours) == 26


def test_10_session_that_ends_on_the_hour_bills_no_next_hour() -> None:
    """Naive: bills the whole session on the day that begins when it ends. Intervals are half-open."""
    joined, left = of("joined", MIDNIGHT - MINUTE, MIDNIGHT - MINUTE), of("left", MIDNIGHT, MIDNIGHT - MINUTE)
    assert NaiveMeter([joined, left]).by_day == {MIDNIGHT: MINUTE}
    assert [row.hour for row in rollups(fold([of("left", MIDNIGHT, MIDNIGHT - MINUTE)]))] == [MIDNIGHT - HOUR]


def test_11_peaks_include_sessions_carried_over_midnight() -> None:
    """Naive: counts 2 on the first day and 0 on the second.

    On the first day one participant joins at the instant when another leaves. On the second nobody joins.
    """
    bob = {"sid": "PA_2", "identity": "bob", "joinedAtMs": str(NOON)}
    ada = [of("joined", NOON - HOUR, NOON - HOUR), of("left", NOON, NOON - HOUR)]
    events = [ada[0], event("participant_joined", NOON, room=LOBBY, participant=bob), ada[1]]
    events.append(event("participant_left", NOON + DAY, room=LOBBY, participant=bob))
    peaks = NaiveMeter(events).peaks
    assert [peaks[MIDNIGHT], peaks[MIDNIGHT + DAY], peaks[MIDNIGHT + 2 * DAY]] == [2, 0, 0]
    one_leaves_as_one_comes = combine(Stretch(1, 1), Stretch(0, 0))
    assert daily_peaks(0, [combine(one_leaves_as_one_comes, EMPTY), Stretch(-1, 0), EMPTY]) == [1, 1, 0]
    assert combine(Stretch(2, 3), Stretch(0, 1)) == Stretch(2, 3)


def test_12_open_session_counts_until_now_and_is_not_stored() -> None:
    """Naive: bills nothing until the leave.

    Relay counts up to now on request, and stores no sum before the end.
    """
    assert naive(of("joined", NOON)) == (0, 0)
    session = fold([of("joined", NOON)])[0]["PA_1"]
    assert usage_of(session, None) == {}
    assert sum(hour.participant_ms for hour in usage_of(session, None, NOON + 2 * HOUR).values()) == 2 * HOUR


def test_15_simultaneous_camera_and_screen_count_as_video_once() -> None:
    """Naive: bills 50 s + 40 s of video in a minute.

    An instant counts as video once, for any number of tracks.
    """
    tracks = [track("published", NOON + 10 * SECOND, CAMERA), track("published", NOON + 20 * SECOND, SCREEN)]
    off = [track("unpublished", NOON + MINUTE, CAMERA), track("unpublished", NOON + MINUTE, SCREEN)]
    assert naive(of("joined", NOON), *tracks, *off, of("left", NOON + MINUTE)) == (MINUTE, 90 * SECOND)
    assert billed(*tracks, of("left", NOON + MINUTE)) == (MINUTE, 50 * SECOND)


def test_15_tracks_end_with_their_session() -> None:
    """Naive: an open track keeps counting, and a late unpublish counts beyond the leave."""
    late = track("unpublished", NOON + HOUR, CAMERA)
    published = track("published", NOON, CAMERA)
    assert naive(of("joined", NOON), published, of("left", NOON + MINUTE), late) == (MINUTE, HOUR)
    assert billed(track("published", NOON, CAMERA), late, of("left", NOON + MINUTE)) == (MINUTE, MINUTE)


def test_15_unpublish_without_publish_bills_no_video() -> None:
    """Naive: bills video from the join on."""
    assert billed(track("unpublished", NOON + 30 * SECOND, CAMERA), of("left", NOON + MINUTE)) == (MINUTE, 0)


def test_15_track_without_a_type_is_audio() -> None:
    """Naive: any track is video. protojson omits zero values, and AUDIO is the zero value."""
    silent = [of("joined", NOON), track("published", NOON, VOICE), track("unpublished", NOON + MINUTE, VOICE)]
    assert naive(*silent, of("left", NOON + MINUTE)) == (MINUTE, MINUTE)
    assert billed(track("published", NOON, VOICE), of("left", NOON + MINUTE)) == (MINUTE, 0)


def test_16_end_of_another_room_of_the_same_name_ends_no_session() -> None:
    """Naive: compares room names, so the late end of yesterday's lobby ends today's sessions."""
    late_end = room("finished", NOON + MINUTE, "RM_0")
    assert naive(of("joined", NOON), late_end, of("left", NOON + HOUR)) == (MINUTE, 0)
    assert billed(of("joined", NOON), late_end, of("left", NOON + HOUR)) == (HOUR, 0)
    assert interval(of("joined", NOON), room("finished", NOON + MINUTE, "RM_0")) == Interval(NOON, None, None)


def test_16_first_of_repeated_room_ends_counts() -> None:
    """Naive: the last ``room_finished`` counts, or each is billed.

    A reopened room keeps its sid, so the first end counts.
    """
    ends = [room("finished", NOON + 3 * MINUTE), room("started", NOON + 2 * MINUTE), room("finished", NOON + MINUTE)]
    assert billed(of("joined", NOON), *ends) == (MINUTE, 0)


def test_16_room_end_before_the_session_start_is_ignored() -> None:
    """Naive: the late end of the first opening ends a session of the second opening before its start."""
    assert naive(of("joined", NOON), room("finished", NOON - MINUTE), room("finished", NOON + MINUTE)) == (-MINUTE, 0)
    reopened = [room("finished", NOON - MINUTE), room("started", NOON - 30 * SECOND), of("joined", NOON)]
    assert interval(*reopened) == Interval(NOON, None, None)
    assert billed(*reopened, room("finished", NOON + MINUTE)) == (MINUTE, 0)


def test_16_room_end_within_the_second_of_the_join_ends_the_session() -> None:
    """Naive: the end seems to be 400 ms before the join, so it is ignored and the session never ends.

    LiveKit floors the end to the second. An end in an earlier second does belong to another opening.
    """
    assert interval(of("joined", NOON, NOON + 400), room("finished", NOON)) == Interval(
        NOON + 400, NOON + 400, "room_finished"
    )
    assert interval(of("joined", NOON), room("finished", NOON - SECOND)) == Interval(NOON, None, None)


def test_16_left_after_the_room_end_is_billed_once() -> None:
    """Naive: a ``left`` that arrives after the end of its room finds no room, or is billed in addition."""
    assert billed(of("joined", NOON), room("finished", NOON + MINUTE), of("left", NOON + MINUTE)) == (MINUTE, 0)


def test_19_egress_participants_are_not_billed() -> None:
    """Naive: recording a call doubles its bill.

    EGRESS joins the room that it records. Every other kind counts, by kind.
    """
    recorder = [of("joined", NOON, kind="EGRESS"), of("left", NOON + MINUTE, kind="EGRESS")]
    assert naive(*recorder) == (MINUTE, 0)
    assert billed(*recorder) == (0, 0)
    for kind in ("AGENT", "SIP", "INGRESS"):
        rows = rollups(fold([of("left", NOON + MINUTE, kind=kind)]))
        assert {row.kind: usage[:2] for row, usage in rows.items()} == {kind: (MINUTE, 0)}


def test_20_rounded_parts_add_up_to_their_total() -> None:
    """Naive: three times 333 ms, each rounded to 0.01 minutes, add up to 0.03, but the total is 0.02."""
    left = [of("left", NOON + SECOND, NOON + 667, sid=f"PA_{number}") for number in range(3)]
    assert billed(*left) == (999, 0)
    naive_total = sum(round(333 / MINUTE, 2) for _ in left)
    assert naive_total == 0.03 != round(999 / MINUTE, 2)
    rounding = Rounding()
    parts = [rounding.show(Amounts(participant_ms=333, video_ms=100)) for _ in left]
    total = parts[0].plus(parts[1]).plus(parts[2])
    assert (total.video, total.audio) == (millionths(300), millionths(699))
    assert all(part.participant == part.video + part.audio for part in (*parts, total))
    assert [round(part.participant * MINUTE / 1_000_000) for part in parts] == [333, 333, 333]
    assert total != Shown()


@pytest.mark.parametrize(
    "name", ["lobby", "q_aaaaaaaa__lobby", "p_aaaaaaaa_lobby", "p_aa_aaaaaa__lobby", "p_aaaaaaaa__"]
)
def test_22_room_without_a_project_prefix_is_not_billed(name: str) -> None:
    """Naive: an error, after which LiveKit drops the event, or a bill to a project with a similar name."""
    stranger = {"sid": "RM_9", "name": name}
    assert naive(of("joined", NOON, room=stranger), of("left", NOON + MINUTE, room=stranger)) == (MINUTE, 0)
    assert billed(of("joined", NOON, room=stranger), of("left", NOON + MINUTE, room=stranger)) == (0, 0)
    raw = body("participant_left", "EV_1", NOON // 1000, room=stranger, participant=participant("PA", "ada", NOON))
    seen = observe(decode_event(raw), RECEIVED_MS)
    assert (seen.owner, seen.room_name, seen.session) == (None, name, None)
