"""Webhook bodies as LiveKit sends them, for tests of single events and of one small meeting."""

import json
from typing import Any

BASE_S = 1_795_000_000


def body(event: str, event_id: str, created_s: int, **parts: Any) -> bytes:
    return json.dumps({"event": event, "id": event_id, "createdAt": str(created_s), **parts}).encode()


def room(name: str, sid: str = "RM_1", created_s: int = BASE_S) -> dict[str, Any]:
    return {"sid": sid, "name": name, "creationTime": str(created_s)}


def participant(sid: str, identity: str, joined_ms: int, **more: Any) -> dict[str, Any]:
    return {
        "sid": sid,
        "identity": identity,
        "joinedAt": str(joined_ms // 1000),
        "joinedAtMs": str(joined_ms),
        "state": "ACTIVE",
        **more,
    }


def meeting(room_name: str, *, start_s: int = BASE_S, seconds: int = 600, tag: str = "a") -> list[bytes]:
    """Build the events of a meeting of two: ada with a camera in the first half, bob in the second half."""
    rm, ada = room(room_name, f"RM_{tag}", start_s), participant(f"PA_{tag}1", "ada", start_s * 1000 + 250)
    bob = participant(f"PA_{tag}2", "bob", (start_s + seconds // 2) * 1000 + 500)
    camera = {"sid": f"TR_{tag}1", "type": "VIDEO", "source": "CAMERA"}
    who = {"sid": ada["sid"], "identity": "ada"}
    half, end = start_s + seconds // 2, start_s + seconds
    brief = {"sid": rm["sid"], "name": room_name}
    return [
        body("room_started", f"EV_{tag}0", start_s, room=rm),
        body("participant_joined", f"EV_{tag}1", start_s, room=rm, participant=ada),
        body("track_published", f"EV_{tag}2", start_s + 1, room=brief, participant=who, track=camera),
        body("participant_joined", f"EV_{tag}3", half, room=rm, participant=bob),
        body("track_unpublished", f"EV_{tag}4", half, room=brief, participant=who, track=camera),
        body("participant_left", f"EV_{tag}5", end, room=rm, participant=ada),
        body("participant_left", f"EV_{tag}6", end, room=rm, participant=bob),
        body("room_finished", f"EV_{tag}7", end, room=rm),
    ]


def meeting_usage(seconds: int = 600) -> tuple[int, int]:
    """Return the (participant ms, video ms) of ``meeting``."""
    half = seconds // 2 * 1000
    return (seconds * 1000 - 250) + (half - 500), half - 1000
