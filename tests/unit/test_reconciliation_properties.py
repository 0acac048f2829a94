"""Laws of the meter with lost webhooks, while reconciliation runs at an interval.

For any lost webhooks, the usage of each session is within the documented bound of what really happened. The stored events,
in any order, reproduce the result.

Each example is a simulated LiveKit from a seed, which a failure prints. It has rooms that open again, participants who
reconnect, kinds, tracks, a crash, failing polls and lost webhooks.
"""

from itertools import pairwise
from random import Random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.metering.reconcile import GRACE_MS, PROVE_AFTER_MS, SETTLE_MS
from shared.metering.state import Session
from shared.metering.usage import UNMETERED_KINDS, counted_until, interval_of, stale_after_ms, usage_of
from tests.examples import examples
from tests.unit.simulated_livekit import START_MS, SimulatedLiveKit, SimulatedStay
from tests.unit.simulated_relay import SimulatedRelay, refold

FLOOR_MS = 1000  # LiveKit's createdAt is whole seconds
LATE_MS = 15_000  # the longest delay of a webhook: LiveKit's retries end after that
seeds = st.integers(0, 2**32 - 1)
intervals_s = st.sampled_from([2, 5, 15, 30, 30, 60, 120])
losses = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


class Bound(NamedTuple):
    """How much the metered time of a session may be below and above the real time (ms)."""

    short_ms: int
    over_ms: int


def bound_of(stay: SimulatedStay, livekit: SimulatedLiveKit, gap_ms: int) -> Bound:
    """Return the bound of docs/metering.md. ``gap_ms`` is the longest time between two answered polls."""
    short_ms = gap_ms + SETTLE_MS + FLOOR_MS
    # The leave was lost, and the room ended before any poll could miss the participant: only known ones are missed.
    over_ms = gap_ms + LATE_MS + FLOOR_MS
    if stay.crashed and livekit.crash is not None and livekit.crash.redis:
        # LiveKit's lists survived the crash. Relay believes them for a while, then needs a while to disprove them.
        return Bound(short_ms + PROVE_AFTER_MS, over_ms + 2 * PROVE_AFTER_MS)
    return Bound(short_ms, over_ms)


def run(
    seed: int, interval_s: int, loss: float, crash: bool, failing: float
) -> tuple[SimulatedLiveKit, SimulatedRelay, int]:
    """Simulate a run. Returns LiveKit, Relay and the longest gap between two answered polls (ms)."""
    rng = Random(seed + 1)
    livekit = SimulatedLiveKit(seed, min(interval_s * 20_000, 1_500_000), crash)
    relay = SimulatedRelay(livekit)
    interval_ms = interval_s * 1000
    dark_ms = rng.randrange(START_MS, livekit.end_ms)
    dark = range(dark_ms, dark_ms + rng.choice([0, 0, 60_000, 600_000]))
    waiting = []
    for number, (at_ms, event) in enumerate(livekit.webhooks()):
        if rng.random() >= loss and at_ms not in dark:
            arriving_ms = at_ms + rng.choice([0, 10, 10, 500, LATE_MS])
            waiting.append((arriving_ms, number, {**event, "id": f"EV_{number}", "createdAt": str(at_ms // 1000)}))
    waiting.sort(key=lambda entry: entry[:2], reverse=True)
    poll_ms, answered = START_MS + rng.randrange(interval_ms), [START_MS]
    # Long enough for the slowest case: a ghost is missed twice after its proof.
    last_ms = livekit.end_ms + 2 * PROVE_AFTER_MS + 4 * interval_ms + 2 * GRACE_MS
    while poll_ms <= last_ms:
        while waiting and waiting[-1][0] <= poll_ms:
            relay.receive(waiting.pop()[2])
        calm = poll_ms > livekit.end_ms
        if calm or rng.random() >= failing:
            names = {opening.name: not calm and rng.random() < failing for opening in livekit.openings}
            relay.poll(poll_ms, names)
            if not any(names.values()) and livekit.listing(poll_ms) is not None:
                answered.append(poll_ms)
        poll_ms += interval_ms
    while waiting:
        relay.receive(waiting.pop()[2])
    return livekit, relay, max(b - a for a, b in pairwise([*answered, last_ms]))


def metered_ms(relay: SimulatedRelay, session: Session | None, until_ms: int, interval_s: int) -> tuple[int, int]:
    """Return (participant ms, video ms) as a usage request would show them."""
    if session is None:
        return 0, 0
    until_ms = counted_until(session, relay.confirmed.get(session.sid), until_ms, stale_after_ms(interval_s))
    hours = usage_of(session, relay.room_of(session), until_ms).values()
    return sum(hour.participant_ms for hour in hours), sum(hour.video_ms for hour in hours)


def real_ms(stay: SimulatedStay) -> tuple[int, int]:
    if stay.active_ms is None or stay.kind in UNMETERED_KINDS:
        return 0, 0
    edges = sorted(edge for _, kind, _, on, off in stay.tracks if kind == "VIDEO" for edge in ((on, 1), (off, -1)))
    video_ms, level, since = 0, 0, 0
    for at_ms, change in edges:
        video_ms += at_ms - since if level > 0 else 0
        level, since = level + change, at_ms
    return stay.end_ms - stay.joined_ms, video_ms


@settings(max_examples=examples(1000))
@given(seeds, intervals_s, losses, st.booleans(), st.sampled_from([0.0, 0.0, 0.2]))
def test_metered_time_stays_within_the_bound_for_any_lost_webhooks(
    seed: int, interval_s: int, loss: float, crash: bool, failing: float
) -> None:
    livekit, relay, gap_ms = run(seed, interval_s, loss, crash, failing)
    # Much later: no session may still be counting.
    asked_ms = livekit.end_ms + 8 * 3_600_000
    for _, stay in livekit.stays():
        connected_ms, video_ms = metered_ms(relay, relay.sessions.get(stay.sid), asked_ms, interval_s)
        really_ms, real_video_ms = real_ms(stay)
        bound = bound_of(stay, livekit, gap_ms)
        assert really_ms - bound.short_ms <= connected_ms <= really_ms + bound.over_ms, (stay, connected_ms, gap_ms)
        videos = sum(1 for track in stay.tracks if track[1] == "VIDEO")
        # The publish and the unpublish event of each track can be lost.
        assert real_video_ms - (videos + 1) * bound.short_ms <= video_ms, (stay, video_ms, gap_ms)
        assert video_ms <= real_video_ms + (videos + 1) * bound.over_ms, (stay, video_ms, gap_ms)
    # The kept events alone, in any order and some twice, reproduce every millisecond.
    other = refold(livekit, relay.kept, Random(seed))
    assert other.sessions == relay.sessions
    assert other.rooms == relay.rooms
    for sid, session in relay.sessions.items():
        assert usage_of(other.sessions[sid], other.room_of(session)) == usage_of(session, relay.room_of(session))


@settings(max_examples=examples(500))
@given(seeds, intervals_s, st.sampled_from([0.0, 0.3]))
def test_reconciliation_changes_nothing_if_no_webhook_is_lost(seed: int, interval_s: int, failing: float) -> None:
    """This holds for any delay of the webhooks, and for anything that reconciliation inferred before."""
    livekit, relay, _ = run_lossless(seed, interval_s, failing)
    alone = SimulatedRelay(livekit)
    for number, (at_ms, event) in enumerate(livekit.webhooks()):
        alone.receive({**event, "id": f"EV_{number}", "createdAt": str(at_ms // 1000)})
    for sid, session in alone.sessions.items():
        expected = interval_of(session, alone.room_of(session))
        assert interval_of(relay.sessions[sid], relay.room_of(relay.sessions[sid])) == expected
        assert usage_of(relay.sessions[sid], relay.room_of(relay.sessions[sid])) == usage_of(
            session, alone.room_of(session)
        ), sid


def run_lossless(seed: int, interval_s: int, failing: float) -> tuple[SimulatedLiveKit, SimulatedRelay, int]:
    livekit = SimulatedLiveKit(seed, min(interval_s * 20_000, 1_500_000), False)
    relay, rng = SimulatedRelay(livekit), Random(seed + 1)
    waiting = [
        (
            at_ms + rng.choice([0, 10, 500, 15_000, 600_000]),
            number,
            {**event, "id": f"EV_{number}", "createdAt": str(at_ms // 1000)},
        )
        for number, (at_ms, event) in enumerate(livekit.webhooks())
    ]
    waiting.sort(key=lambda entry: entry[:2], reverse=True)
    for poll_ms in range(START_MS, livekit.end_ms + 4 * interval_s * 1000 + GRACE_MS, interval_s * 1000):
        while waiting and waiting[-1][0] <= poll_ms:
            relay.receive(waiting.pop()[2])
        relay.poll(poll_ms, {opening.name: rng.random() < failing for opening in livekit.openings})
    while waiting:
        relay.receive(waiting.pop()[2])
    return livekit, relay, 0
