"""Reads one LiveKit event into what it tells of a session and of a room.

Facts about the events are from livekit-server v1.13 (pkg/rtc, pkg/telemetry/events.go) and livekit/protocol's webhook
package: ``createdAt`` is whole seconds, floored; ``joinedAtMs`` is when the participant connected, older servers send only
``joinedAt`` in seconds; track events carry of the participant only sid and identity.
"""

from typing import NamedTuple

import msgspec

from shared.errors import UnfoldableEvent
from shared.ids import RoomName, parse_livekit_room
from shared.metering.state import Room, Session, Track
from shared.models.livekit_event import LiveKitEvent, ParticipantInfo, RoomInfo

# LiveKit's clock may be this far ahead of ours before its times are not believed.
FUTURE_TOLERANCE_MS = 3_600_000
# 2020-01-01: before LiveKit existed. A clock that was never set, not a call.
_EARLIEST_MS = 1_577_836_800_000
# createdAt is floored to the second and stamped by another goroutine than joinedAtMs.
_END_BEFORE_START_TOLERANCE_MS = 5_000

_PARTICIPANT_EVENTS = {"participant_joined", "participant_left", "participant_connection_aborted"}
_TRACK_EVENTS = {"track_published", "track_unpublished"}
_ROOM_EVENTS = {"room_started", "room_finished"}


class Observation(NamedTuple):
    """What an event tells. ``owner`` is whose room it concerns, None for a room that Relay did not name."""

    created_ms: int
    owner: RoomName | None
    room_name: str
    session: Session | None
    room: Room | None


def observe(event: LiveKitEvent, received_ms: int) -> Observation:
    """Reads an event received at ``received_ms``. Raises ``UnfoldableEvent`` for one whose content cannot be true."""
    created_ms = event.created_at * 1000
    if not event.event:
        raise UnfoldableEvent("no_event_name", "the event has no name")
    if created_ms < _EARLIEST_MS:
        raise UnfoldableEvent("no_time", "createdAt is missing or before LiveKit existed")
    if created_ms > received_ms + FUTURE_TOLERANCE_MS:
        raise UnfoldableEvent("from_the_future", "createdAt is over an hour after the event was received")
    room_name = _room_name(event)
    owner = parse_livekit_room(room_name) if room_name else None
    if room_name and owner is None:
        return Observation(created_ms, None, room_name, None, None)
    room = _room(event, owner, created_ms) if event.room is not None and event.room.sid else None
    session = _session(event, owner, created_ms)
    return Observation(created_ms, owner, room_name, session, room)


def _room_name(event: LiveKitEvent) -> str:
    for info in (event.room and event.room.name, event.egress_info and event.egress_info.room_name):
        if info:
            return info
    return event.ingress_info.room_name if event.ingress_info is not None else ""


def _room(event: LiveKitEvent, owner: RoomName | None, created_ms: int) -> Room | None:
    info = event.room
    if info is None or (event.event not in _ROOM_EVENTS and event.event not in _PARTICIPANT_EVENTS):
        return None
    return Room(
        sid=info.sid,
        name=info.name or None,
        project_id=owner.project_id if owner else None,
        mode=owner.mode if owner else None,
        created_ms=_created_ms(info),
        finished_ms=(created_ms,) if event.event == "room_finished" else (),
    )


def _created_ms(info: RoomInfo) -> int | None:
    return info.creation_time_ms or info.creation_time * 1000 or None


def _session(event: LiveKitEvent, owner: RoomName | None, created_ms: int) -> Session | None:
    participant, name = event.participant, event.event
    if name not in _PARTICIPANT_EVENTS and name not in _TRACK_EVENTS:
        return None
    if participant is None or not participant.sid:
        raise UnfoldableEvent("no_participant", f"{name} names no participant")
    session = Session(
        sid=participant.sid,
        project_id=owner.project_id if owner else None,
        mode=owner.mode if owner else None,
        room=owner.display if owner else None,
        room_sid=(event.room.sid or None) if event.room is not None else None,
        identity=participant.identity or None,
    )
    if name in _TRACK_EVENTS:
        return _with_track(session, event, created_ms)
    joined_ms = _joined_ms(participant, created_ms)
    # `left` and `aborted` come at the end: their own time proves no presence of its own.
    ended = name != "participant_joined"
    return msgspec.structs.replace(
        session,
        name=participant.name or None,
        kind=str(participant.kind) or None,
        joined_ms=joined_ms,
        first_seen_ms=created_ms,
        active_ms=None if ended else created_ms,
        left_ms=created_ms if name == "participant_left" else None,
        aborted_ms=created_ms if name == "participant_connection_aborted" else None,
        disconnect_reason=(str(participant.disconnect_reason) or None) if ended else None,
    )


def _joined_ms(participant: ParticipantInfo, created_ms: int) -> int | None:
    joined_ms = participant.joined_at_ms or participant.joined_at * 1000
    if joined_ms and joined_ms < _EARLIEST_MS:
        raise UnfoldableEvent("no_time", "joinedAt is before LiveKit existed")
    if joined_ms > created_ms + _END_BEFORE_START_TOLERANCE_MS:
        raise UnfoldableEvent("end_before_start", "the event was created before its participant joined")
    return joined_ms or None


def _with_track(session: Session, event: LiveKitEvent, created_ms: int) -> Session:
    track = event.track
    if track is None or not track.sid:
        raise UnfoldableEvent("no_track", f"{event.event} names no track")
    published = event.event == "track_published"
    seen = Track(
        str(track.type), str(track.source), created_ms if published else None, None if published else created_ms
    )
    return msgspec.structs.replace(session, first_seen_ms=created_ms, tracks={track.sid: seen})
