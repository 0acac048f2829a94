"""Known metering errors that webhooks alone cannot prevent.

The numbers are those of tests/unit/test_metering_scenarios.py.
Each docstring says what the naive meter (tests/naive_meter.py) or a careless reconciliation would do.
"""

import json

import pytest

from shared.metering.observe import observe
from shared.metering.reconcile import PROVE_AFTER_MS, Listing, RoomListing
from shared.metering.run_usage import usage_of_run
from shared.metering.state import merge_run
from shared.metering.usage import Interval, counted_until, interval_of, stale_after_ms, usage_of
from shared.models.livekit_event import ListedParticipant, RoomInfo, decode_kept_event
from tests.unit.brute_force_meter import Event
from tests.unit.simulated_relay import SimulatedRelay
from tests.unit.test_metering_properties import event
from tests.unit.test_metering_scenarios import CAMERA, LOBBY, MINUTE, NOON, SECOND, of, room, track

NAME = LOBBY["name"]


class Scripted:
    """A LiveKit that lists ``people`` (None: it does not answer) and really serves the sids in ``served``."""

    def __init__(self) -> None:
        self.people: list[ListedParticipant] | None = []
        self.served: set[str] | None = None
        self.room_sid = "RM_1"
        self.has_node = True

    def join(self, sid: str = "PA_1", joined_ms: int = NOON) -> None:
        assert self.people is not None
        person = ListedParticipant(
            sid=sid, identity="ada", state="ACTIVE", joined_at=joined_ms // 1000, joined_at_ms=joined_ms
        )
        self.people.append(person)

    def listing(self, at_ms: int) -> Listing | None:
        if self.people is None:
            return None
        people = {person.sid: person for person in self.people}
        return Listing(at_ms, {NAME: RoomListing(RoomInfo(sid=self.room_sid, name=NAME), at_ms, people)})

    def serves_participant(self, sid: str, at_ms: int) -> bool:
        return self.served is None or sid in self.served

    def serves_room(self, name: str, at_ms: int) -> bool:
        return self.has_node


@pytest.fixture
def livekit() -> Scripted:
    return Scripted()


@pytest.fixture
def relay(livekit: Scripted) -> SimulatedRelay:
    return SimulatedRelay(livekit)


def tell(relay: SimulatedRelay, *events: Event) -> None:
    for number, one in enumerate(events):
        relay.receive({**one, "id": f"EV_{number}_{one['createdAt']}"})


def poll(relay: SimulatedRelay, *at_s: int, failing: bool = False) -> None:
    """Run a reconciliation pass at each of these seconds after noon."""
    for second in at_s:
        relay.poll(NOON + second * SECOND, {NAME: failing})


def interval(relay: SimulatedRelay, sid: str = "PA_1") -> Interval | None:
    return interval_of(relay.sessions[sid], relay.room_of(relay.sessions[sid]))


def test_01_listed_participant_without_events_gets_a_session(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Naive: bills nothing. LiveKit lists the participant with the joining time."""
    livekit.join()
    poll(relay, 300)
    assert interval(relay) == Interval(NOON, None, None)


def test_02_lost_left_ends_at_the_last_sighting_if_the_room_continues(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Naive: the session never ends.

    Relay ends it at the last sighting, as inferred. A real ``left`` overrides that.
    """
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30, 60)
    livekit.people = []
    poll(relay, 90, 120)
    assert interval(relay) == Interval(NOON, NOON + 60 * SECOND, "reconciled")
    hours = usage_of(relay.sessions["PA_1"], None).values()
    assert sum(hour.inferred_ms for hour in hours) == 60 * SECOND
    tell(relay, of("left", NOON + 75 * SECOND))
    assert interval(relay) == Interval(NOON, NOON + 75 * SECOND, "left")


def test_02_room_end_does_not_extend_a_session_missed_twice(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Naive: the room stays open for an hour after the last sighting of ada, and the hour is billed."""
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30)
    livekit.people = []
    poll(relay, 60, 90)
    tell(relay, room("finished", NOON + 60 * MINUTE))
    assert interval(relay) == Interval(NOON, NOON + 30 * SECOND, "reconciled")


def test_02_room_end_does_not_extend_a_session_missed_once(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Careless: only one poll misses ada, so her session ends with the room ten minutes later."""
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30)
    livekit.people = []
    poll(relay, 600)
    tell(relay, room("finished", NOON + 605 * SECOND))
    poll(relay, 630)
    assert interval(relay) == Interval(NOON, NOON + 30 * SECOND, "reconciled")
    poll(relay, 660)
    assert len(relay.kept) == 3


def test_12_unconfirmed_open_session_stops_counting(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Naive: ada joins at noon and LiveKit dies at 12:05. A request the next morning shows 20 hours."""
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30, 300)
    livekit.people = None
    morning_ms, stale_ms = NOON + 20 * 60 * MINUTE, stale_after_ms(30)
    session, confirmed_ms = relay.sessions["PA_1"], relay.confirmed["PA_1"]
    assert counted_until(session, confirmed_ms, NOON + 310 * SECOND, stale_ms) == NOON + 310 * SECOND
    assert counted_until(session, confirmed_ms, morning_ms, stale_ms) == NOON + 300 * SECOND
    assert interval(relay) == Interval(NOON, None, None)


def test_13_absence_in_one_poll_does_not_end_a_session(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Careless: one list without ada, while her reconnect replaces her entry, ends her session."""
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30)
    people, livekit.people = livekit.people, []
    poll(relay, 60)
    livekit.people = people
    poll(relay, 90)
    livekit.people = []
    poll(relay, 120)
    assert interval(relay) == Interval(NOON, None, None)


def test_13_failed_poll_does_not_count_as_absence(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Careless: LiveKit's API restarts, and every session ends."""
    tell(relay, of("joined", NOON))
    livekit.people = None
    poll(relay, 30, 60, 90, 120)
    livekit.people = []
    poll(relay, 150, 180, 210, failing=True)
    assert interval(relay) == Interval(NOON, None, None)


@pytest.mark.parametrize("room_is_served", [True, False])
def test_13_listed_ghost_is_ended_after_its_proof_fails(
    relay: SimulatedRelay, livekit: Scripted, room_is_served: bool
) -> None:
    """Careless: after a crash LiveKit's Redis keeps listing ada, so her session never ends."""
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30)
    livekit.served, livekit.has_node = set(), room_is_served
    seconds = PROVE_AFTER_MS // SECOND
    poll(relay, *range(60, 2 * seconds + 120, 30))
    assert interval(relay) == Interval(NOON, NOON, "reconciled")
    assert relay.confirmed["PA_1"] <= NOON + PROVE_AFTER_MS


def test_14_join_during_a_poll_is_not_missed_by_that_poll(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Careless: the webhook is folded while a poll is under way.

    The list is older and does not contain ada.
    """
    tell(relay, of("joined", NOON + 61 * SECOND, NOON + 60 * SECOND))
    poll(relay, 60)
    livekit.people = []
    poll(relay, 80)
    assert interval(relay) == Interval(NOON + 60 * SECOND, None, None)
    # A pass that began after the join misses her once. The next pass ends the session.
    poll(relay, 110)
    assert interval(relay) == Interval(NOON + 60 * SECOND, NOON + 61 * SECOND, "reconciled")


def test_14_session_opened_by_a_poll_merges_with_its_late_webhooks(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Careless: the poll and the webhook each open a session, and the time counts twice."""
    livekit.join()
    poll(relay, 30)
    tell(relay, of("joined", NOON), of("left", NOON + MINUTE))
    assert list(relay.sessions) == ["PA_1"]
    assert interval(relay) == Interval(NOON, NOON + MINUTE, "left")


def test_15_track_that_is_never_listed_bills_no_video(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Naive: a camera whose unpublish event was lost counts until the end of the session."""
    tell(relay, of("joined", NOON), track("published", NOON, CAMERA))
    livekit.join()
    poll(relay, 30, 60)
    tell(relay, of("left", NOON + 10 * MINUTE))
    video = sum(hour.video_ms for hour in usage_of(relay.sessions["PA_1"], None).values())
    assert video == 0  # no list contained the track, so there is no sign of it after its publish


def test_16_newer_room_of_the_same_name_ends_the_old_sessions(relay: SimulatedRelay) -> None:
    """Naive: LiveKit crashed during yesterday's lobby.

    Its sessions never end, even when today's lobby opens.
    """
    yesterday = {**LOBBY, "creationTimeMs": str(NOON)}
    today = {"sid": "RM_2", "name": NAME, "creationTimeMs": str(NOON + 24 * 60 * MINUTE)}
    old = of("joined", NOON + SECOND, NOON, room=yesterday)
    new = event("room_started", NOON + 24 * 60 * MINUTE, room=today)
    tell(relay, old, new)
    assert interval(relay) == Interval(NOON, NOON + SECOND, "reconciled")
    other = SimulatedRelay(Scripted())
    tell(other, new, old)
    assert interval(other) == interval(relay)


def test_17_joins_and_leaves_during_relay_downtime_are_reconciled(relay: SimulatedRelay, livekit: Scripted) -> None:
    """Naive: a participant who joined during the downtime is not billed.

    One who left then is billed without end.
    """
    tell(relay, of("joined", NOON))
    livekit.join()
    poll(relay, 30)
    livekit.people = []
    livekit.join("PA_2", NOON + 20 * MINUTE)
    poll(relay, 3600, 3630)
    assert interval(relay) == Interval(NOON, NOON + 30 * SECOND, "reconciled")
    assert interval(relay, "PA_2") == Interval(NOON + 20 * MINUTE, None, None)


EGRESS = {"egressId": "EG_1", "roomName": NAME, "roomId": "RM_1", "startedAt": str(NOON * 1_000_000)}


@pytest.mark.parametrize(
    ("request_of", "kind"),
    [
        ({"roomComposite": {"roomName": NAME, "layout": "grid"}}, "room_composite"),
        ({"web": {"url": "https://example.com"}}, "web"),
        ({"track": {"trackId": "TR_1"}}, "track"),
        ({"trackComposite": {"audioTrackId": "TR_1"}}, "track_composite"),
        ({"participant": {"identity": "ada"}}, "participant"),
        ({}, None),
    ],
)
def test_19_egress_runs_are_metered_by_type(request_of: Event, kind: str | None) -> None:
    """Naive: a recording counts as a participant, or not at all. Relay meters it separately, by type."""
    ended = {**EGRESS, **request_of, "endedAt": str((NOON + MINUTE) * 1_000_000), "status": "EGRESS_COMPLETE"}
    runs = [
        observe(decode_kept_event(json.dumps(one).encode()), NOON + 2 * MINUTE).run
        for one in (
            event("egress_started", NOON, egressInfo={**EGRESS, **request_of}),
            event("egress_ended", NOON + MINUTE, egressInfo=ended),
        )
    ]
    assert runs[0] is not None
    assert runs[1] is not None
    run = merge_run(runs[1], runs[0])
    assert (run.type, run.room, run.project_id) == (kind, "lobby", "aaaaaaaa")
    assert [usage.active_ms for usage in usage_of_run(run).values()] == [MINUTE]


def test_19_each_use_of_an_ingress_is_a_separate_run() -> None:
    """Naive: one ingress used on two days is one run of two days."""
    for start_ms, resource in ((NOON, "a"), (NOON + 60 * MINUTE, "b")):
        state = {
            "startedAt": str(start_ms * 1_000_000),
            "endedAt": str((start_ms + MINUTE) * 1_000_000),
            "resourceId": resource,
        }
        info = {"ingressId": "IN_1", "roomName": NAME, "inputType": "WHIP_INPUT", "state": state}
        one = event("ingress_ended", start_ms + MINUTE, ingressInfo=info)
        run = observe(decode_kept_event(json.dumps(one).encode()), NOON + 120 * MINUTE).run
        assert run is not None
        assert (run.id, run.type) == (f"IN_1/{resource}", "whip")
        assert [usage.active_ms for usage in usage_of_run(run).values()] == [MINUTE]
