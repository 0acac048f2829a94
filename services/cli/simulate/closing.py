"""Simulate a room that is closed while everybody is in it: the peak load of LiveKit's webhook queue.

Closing a room closes one participant after the other without waiting (livekit-server, pkg/rtc/room.go). All events are
created in the same instant, but the queue sends one at a time.
"""

import random
from typing import Any

import msgspec

from services.cli.simulate.traffic import Event, Meeting, Stay, participant_info, random_id, room_info
from shared.infra.ids import Mode, livekit_room

_TRACKS: tuple[dict[str, Any], ...] = (
    {"source": "MICROPHONE", "mimeType": "audio/opus"},
    {"type": "VIDEO", "source": "CAMERA", "mimeType": "video/VP8", "width": 1280, "height": 720},
)


def make_closing_room(
    rng: random.Random, project_id: str, mode: Mode, display: str, people: int, start_ms: int, end_ms: int
) -> Meeting:
    """Plan a room that is closed at ``end_ms`` with everybody in it.

    Everybody joins in the first half, with a microphone and a camera. The last ``3 * people + 1`` events are those of the
    closing: they end all tracks, all participants and the room.
    """
    name, room_sid = livekit_room(project_id, mode, display), "RM_" + random_id(rng)
    start_ms += 1000 - start_ms % 1000
    end_ms -= end_ms % 1000
    room = room_info(rng, name, room_sid, start_ms)
    room_reference = {"sid": room_sid, "name": name}
    arriving: list[Event] = []
    closing: list[Event] = []
    stays: list[Stay] = []

    def add_event(events: list[Event], event: str, at_ms: int, **parts: Any) -> None:
        payload = {"event": event, **parts, "id": "EV_" + random_id(rng), "createdAt": str(at_ms // 1000)}
        events.append(Event(name, at_ms, msgspec.json.encode(payload)))

    add_event(arriving, "room_started", start_ms, room=room)
    for number in range(people):
        joined_ms = rng.randint(start_ms, (start_ms + end_ms) // 2)
        participant = participant_info(rng, f"person-{number}", joined_ms)
        publisher = {"sid": participant["sid"], "identity": participant["identity"]}
        add_event(arriving, "participant_joined", joined_ms, room=room, participant=participant)
        for details in _TRACKS:
            track = {"sid": "TR_" + random_id(rng), **details}
            add_event(arriving, "track_published", joined_ms, room=room_reference, participant=publisher, track=track)
            add_event(closing, "track_unpublished", end_ms, room=room_reference, participant=publisher, track=track)
        gone = {**participant, "state": "DISCONNECTED", "disconnectReason": "ROOM_CLOSED"}
        add_event(closing, "participant_left", end_ms, room=room, participant=gone)
        video = (max(joined_ms // 1000 * 1000, joined_ms), end_ms)
        stays.append(Stay(project_id, mode, joined_ms, end_ms, (video,)))
    add_event(closing, "room_finished", end_ms, room=room)
    arriving.sort(key=lambda event: event.created_ms)
    return Meeting([*arriving, *closing], stays)
