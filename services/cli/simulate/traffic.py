"""Simulated meetings: the webhook bodies that LiveKit would send for them. A seed repeats a meeting."""

import random
from typing import Any, NamedTuple

import msgspec

from shared.infra.ids import Mode, livekit_room

_ID = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
_NAMES = ("ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal", "iris", "jo", "kim", "lou")


class Event(NamedTuple):
    """A webhook body, its room, and the time when LiveKit created it (unix ms)."""

    room: str
    created_ms: int
    body: bytes


class Stay(NamedTuple):
    """One session as it should be metered. Times are unix ms, and intervals are half-open."""

    project_id: str
    mode: Mode
    start_ms: int
    end_ms: int
    video: tuple[tuple[int, int], ...]


class Meeting(NamedTuple):
    """The events of one room in the order of their creation, and the sessions in it."""

    events: list[Event]
    stays: list[Stay]


def room_info(rng: random.Random, name: str, room_sid: str, start_ms: int) -> dict[str, Any]:
    """Return a livekit.Room as protojson writes it."""
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
    """Return the livekit.ParticipantInfo of a connected participant."""
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
    """Plan one room from its first participant to its end, inside ``[start_ms, end_ms]``.

    The interval must be at least 4 s long.
    """
    name, room_sid = livekit_room(project_id, mode, display), "RM_" + random_id(rng)
    events: list[Event] = []
    stays: list[Stay] = []
    start_ms += 1000 - start_ms % 1000
    room = room_info(rng, name, room_sid, start_ms)

    def add_event(event: str, at_ms: int, **parts: Any) -> None:
        payload = {"event": event, **parts, "id": "EV_" + random_id(rng), "createdAt": str(at_ms // 1000)}
        events.append(Event(name, at_ms, msgspec.json.encode(payload)))

    add_event("room_started", start_ms, room=room)
    for number in range(people):
        identity = _NAMES[number % len(_NAMES)] + (f"-{number // len(_NAMES)}" if number >= len(_NAMES) else "")
        kind = "AGENT" if number and rng.random() < 0.05 else "STANDARD"
        joined = rng.randint(start_ms, max(start_ms, end_ms - 3000))
        left = rng.randint(joined, end_ms - 1000)
        spans = [(joined, left)]
        if left - joined > 4000 and rng.random() < 0.1:
            # A full reconnect: a new sid joins before LiveKit notices that the old one has left.
            again = rng.randint(joined + 1000, left - 2000)
            spans = [(joined, min(again + rng.randint(0, 900), left)), (again, left)]
        for index, (begin, end) in enumerate(spans):
            reason = "DUPLICATE_IDENTITY" if index + 1 < len(spans) else "CLIENT_INITIATED"
            video = _add_stay(rng, add_event, room, identity, kind, begin, end, reason)
            # LiveKit reports the end in whole seconds. A stay under a second can then end before it starts; it counts as empty.
            ended = max(begin, end // 1000 * 1000)
            clipped = ((max(on, begin), min(off, ended)) for on, off in video)
            spans_of_video = tuple((on, off) for on, off in clipped if off > on)
            stays.append(Stay(project_id, mode, begin, ended, spans_of_video))
    add_event("room_finished", end_ms, room=room)
    events.sort(key=lambda event: event.created_ms)
    return Meeting(events, stays)


def _add_stay(
    rng: random.Random,
    add_event: Any,
    room: dict[str, Any],
    identity: str,
    kind: str,
    begin: int,
    end: int,
    reason: str,
) -> list[tuple[int, int]]:
    participant = participant_info(rng, identity, begin)
    if kind != "STANDARD":
        participant["kind"] = kind
    room_reference, publisher = (
        {"sid": room["sid"], "name": room["name"]},
        {"sid": participant["sid"], "identity": identity},
    )
    add_event("participant_joined", begin, room=room, participant=participant)
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
        # Protojson omits a zero value, and AUDIO is zero.
        track = {"sid": "TR_" + random_id(rng), **({"type": media} if media != "AUDIO" else {}), **details}
        add_event("track_published", on, room=room_reference, participant=publisher, track=track)
        add_event("track_unpublished", off, room=room_reference, participant=publisher, track=track)
        if media == "VIDEO":
            video.append((on // 1000 * 1000, off // 1000 * 1000))
    add_event(
        "participant_left",
        end,
        room=room,
        participant={**participant, "state": "DISCONNECTED", "disconnectReason": reason},
    )
    return video


def random_id(rng: random.Random, length: int = 12) -> str:
    """Return random letters and digits, without those that look alike."""
    return "".join(rng.choices(_ID, k=length))
