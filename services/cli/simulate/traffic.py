"""Meetings, made up from a seed: the webhook bodies LiveKit would send for them, and what they should add up to.

The expectation is computed from the plan of the meetings, instant by instant where it must be, and shares no code with the
meter: it is there to find the meter wrong.
"""

import random
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from shared.infra.ids import Mode, livekit_room

_DAY_MS = 86_400_000
_ID = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
_NAMES = ("ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal", "iris", "jo", "kim", "lou")


class Event(NamedTuple):
    """A webhook body, the room whose queue it waits in, and when LiveKit made it (unix ms)."""

    room: str
    created_ms: int
    body: bytes


class Stay(NamedTuple):
    """One session as it should be metered; unix ms, half-open."""

    project_id: str
    mode: Mode
    start_ms: int
    end_ms: int
    video: tuple[tuple[int, int], ...]


class Meeting(NamedTuple):
    events: list[Event]
    stays: list[Stay]


class DayExpected(msgspec.Struct, rename="camel"):
    """What a project, mode and UTC day should come to."""

    project_id: str
    mode: str
    date: str
    participant_ms: int = 0
    video_ms: int = 0
    audio_ms: int = 0
    peak_participants: int = 0


def room_info(rng: random.Random, name: str, room_sid: str, start_ms: int) -> dict[str, Any]:
    """livekit.Room as protojson writes it."""
    return {
        "sid": room_sid,
        "name": name,
        "emptyTimeout": 300,
        "departureTimeout": 20,
        "creationTime": str(start_ms // 1000),
        "creationTimeMs": str(start_ms),
        "turnPassword": random_id(rng, 40),
        "enabledCodecs": [{"mime": "audio/opus"}, {"mime": "video/VP8"}],
    }


def participant_info(rng: random.Random, identity: str, joined_ms: int) -> dict[str, Any]:
    """livekit.ParticipantInfo of somebody who is connected."""
    return {
        "sid": "PA_" + random_id(rng),
        "identity": identity,
        "state": "ACTIVE",
        "joinedAt": str(joined_ms // 1000),
        "joinedAtMs": str(joined_ms),
        "name": identity.title(),
        "version": 3,
        "permission": {"canSubscribe": True, "canPublish": True, "canPublishData": True},
        "isPublisher": True,
    }


def make_meeting(
    rng: random.Random, project_id: str, mode: Mode, display: str, people: int, start_ms: int, end_ms: int
) -> Meeting:
    """One room from its first participant to its finish, inside ``[start_ms, end_ms]``; needs at least 4 s."""
    name, room_sid = livekit_room(project_id, mode, display), "RM_" + random_id(rng)
    events: list[Event] = []
    stays: list[Stay] = []
    start_ms += 1000 - start_ms % 1000
    room = room_info(rng, name, room_sid, start_ms)

    def tell(event: str, at_ms: int, **parts: Any) -> None:
        payload = {"event": event, **parts, "id": "EV_" + random_id(rng), "createdAt": str(at_ms // 1000)}
        events.append(Event(name, at_ms, msgspec.json.encode(payload)))

    tell("room_started", start_ms, room=room)
    for number in range(people):
        identity = _NAMES[number % len(_NAMES)] + (f"-{number // len(_NAMES)}" if number >= len(_NAMES) else "")
        kind = "AGENT" if number and rng.random() < 0.05 else "STANDARD"
        joined = rng.randint(start_ms, max(start_ms, end_ms - 3000))
        left = rng.randint(joined, end_ms - 1000)
        spans = [(joined, left)]
        if left - joined > 4000 and rng.random() < 0.1:
            # A full reconnect: a new sid joins before LiveKit has noticed that the old one is gone.
            again = rng.randint(joined + 1000, left - 2000)
            spans = [(joined, min(again + rng.randint(0, 900), left)), (again, left)]
        for index, (begin, end) in enumerate(spans):
            reason = "DUPLICATE_IDENTITY" if index + 1 < len(spans) else "CLIENT_INITIATED"
            video = _stay(rng, tell, room, identity, kind, begin, end, reason)
            # LiveKit tells the end in whole seconds, so a stay under a second can end before it starts: it is empty.
            ended = max(begin, end // 1000 * 1000)
            clipped = ((max(on, begin), min(off, ended)) for on, off in video)
            spans_of_video = tuple((on, off) for on, off in clipped if off > on)
            stays.append(Stay(project_id, mode, begin, ended, spans_of_video))
    tell("room_finished", end_ms, room=room)
    events.sort(key=lambda event: event.created_ms)
    return Meeting(events, stays)


def _stay(
    rng: random.Random, tell: Any, room: dict[str, Any], identity: str, kind: str, begin: int, end: int, reason: str
) -> list[tuple[int, int]]:
    participant = participant_info(rng, identity, begin)
    if kind != "STANDARD":
        participant["kind"] = kind
    brief, who = {"sid": room["sid"], "name": room["name"]}, {"sid": participant["sid"], "identity": identity}
    tell("participant_joined", begin, room=room, participant=participant)
    video: list[tuple[int, int]] = []
    tracks: list[tuple[str, dict[str, Any], float]] = [
        ("AUDIO", {"source": "MICROPHONE", "mimeType": "audio/opus"}, 0.9)
    ]
    tracks.append(("VIDEO", {"source": "CAMERA", "mimeType": "video/VP8", "width": 1280, "height": 720}, 0.6))
    tracks += [("VIDEO", {"source": "SCREEN_SHARE", "mimeType": "video/VP8"}, 0.2)] * 2
    for media, details, chance in tracks:
        if rng.random() >= chance or end <= begin:
            continue
        on = rng.randint(begin, end)
        off = rng.randint(on, end)
        # A zero value is omitted on the wire, and AUDIO is zero.
        track = {"sid": "TR_" + random_id(rng), **({"type": media} if media != "AUDIO" else {}), **details}
        tell("track_published", on, room=brief, participant=who, track=track)
        tell("track_unpublished", off, room=brief, participant=who, track=track)
        if media == "VIDEO":
            video.append((on // 1000 * 1000, off // 1000 * 1000))
    tell(
        "participant_left",
        end,
        room=room,
        participant={**participant, "state": "DISCONNECTED", "disconnectReason": reason},
    )
    return video


def random_id(rng: random.Random, length: int = 12) -> str:
    return "".join(rng.choices(_ID, k=length))


def expected(stays: list[Stay]) -> list[DayExpected]:
    """What the stays come to, by project, mode and UTC day."""
    days: dict[tuple[str, str, int], DayExpected] = {}
    edges: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def day_of(stay: Stay, day: int) -> DayExpected:
        key = (stay.project_id, stay.mode, day)
        if key not in days:
            date = datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).date().isoformat()
            days[key] = DayExpected(stay.project_id, stay.mode, date)
        return days[key]

    for stay in stays:
        video = _union(stay.video)
        for day in range(stay.start_ms // _DAY_MS, stay.end_ms // _DAY_MS + 1):
            begin, end = day * _DAY_MS, (day + 1) * _DAY_MS
            connected = _overlap(stay.start_ms, stay.end_ms, begin, end)
            if not connected:
                continue
            total = day_of(stay, day)
            seen = sum(_overlap(on, off, begin, end) for on, off in video)
            total.participant_ms += connected
            total.video_ms += seen
            total.audio_ms += connected - seen
        if stay.end_ms > stay.start_ms:
            edges[stay.project_id, stay.mode] += [(stay.start_ms, 1), (stay.end_ms, -1)]
    for (project_id, mode), changes in edges.items():
        _peaks(days, project_id, mode, sorted(changes))
    return sorted(days.values(), key=lambda day: (day.project_id, day.mode, day.date))


def _peaks(
    days: dict[tuple[str, str, int], DayExpected], project_id: str, mode: str, changes: list[tuple[int, int]]
) -> None:
    for (owner, day_mode, day), total in days.items():
        if (owner, day_mode) != (project_id, mode):
            continue
        begin, end = day * _DAY_MS, (day + 1) * _DAY_MS
        # Who is connected at midnight, then every change after it. Sorted pairs put -1 before +1 at the same instant.
        level = sum(change for at_ms, change in changes if at_ms <= begin)
        total.peak_participants = level
        for at_ms, change in changes:
            if begin < at_ms < end:
                level += change
                total.peak_participants = max(total.peak_participants, level)


def _overlap(a: int, b: int, begin: int, end: int) -> int:
    return max(0, min(b, end) - max(a, begin))


def _union(spans: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for on, off in sorted(spans):
        if merged and on <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], off))
        else:
            merged.append((on, off))
    return merged
