"""Read the information about a session and a room from one LiveKit event.

Times must be plausible (docs/metering.md, "Quarantine"). An event was created within the last ``MAX_AGE_MS``, and nothing
in it began more than ``MAX_SESSION_MS`` before the event. The content of an event is bounded too, so that no event makes a
large state.

Sources: livekit-server v1.13 (pkg/rtc, pkg/telemetry/events.go) and livekit/protocol's webhook package. ``createdAt`` is
whole seconds, floored. ``joinedAtMs`` is when the participant connected; older servers send only
``joinedAt`` in seconds. Track events carry only the sid and the identity of the participant.
"""

from typing import TypeAlias

import msgspec

from shared.errors import UnfoldableEvent
from shared.infra.ids import Mode, RoomName, parse_livekit_room
from shared.metering.bounds import (
    EARLIEST_MS,
    END_BEFORE_START_TOLERANCE_MS,
    FUTURE_TOLERANCE_MS,
    MAX_AGE_DAYS,
    MAX_AGE_MS,
    MAX_TEXT,
    MAX_TRACK_SID,
)
from shared.metering.hours import MAX_SESSION_DAYS, MAX_SESSION_MS
from shared.metering.observe_runs import observed_run, reconciled_times
from shared.metering.state import MAX_TRACKS, MediaRun, Room, Session, Track
from shared.models.livekit_event import (
    ListedParticipant,
    LiveKitEvent,
    OwnEvent,
    ParticipantInfo,
    RoomInfo,
    TrackInfo,
)

JOINED, LEFT, ABORTED = "participant_joined", "participant_left", "participant_connection_aborted"
_PARTICIPANT_EVENTS = {JOINED, LEFT, ABORTED}
_TRACK_EVENTS = {"track_published", "track_unpublished"}
_ROOM_EVENTS = {"room_started", "room_finished"}
# Reconciliation turns LiveKit's listings into Relay's own events, so that the stored events prove every minute.
SEEN, GONE, TRACK_GONE = "relay_participant_seen", "relay_participant_gone", "relay_track_gone"
_RECONCILED = {SEEN, GONE, TRACK_GONE}
# These events describe the whole room. The other events only name it.
_WITH_ROOM = _ROOM_EVENTS | _PARTICIPANT_EVENTS | {SEEN}


# The project, mode and room of a session (None if the event names no room of a project), its room sid and identity.
_Place: TypeAlias = tuple[str | None, Mode | None, str | None, str | None, str | None]


class Observation(msgspec.Struct, frozen=True, gc=False):
    """The information in an event.

    ``owner``: the owner of its room; None for a room that Relay did not name.
    """

    created_ms: int
    owner: RoomName | None
    room_name: str
    session: Session | None
    room: Room | None
    run: MediaRun | None = None


def observe(event: LiveKitEvent, received_ms: int) -> Observation:
    """Read an event that Relay received at ``received_ms`` (unix ms).

    Only an ``OwnEvent`` can hold findings of reconciliation. Raises ``UnfoldableEvent`` for implausible content.
    """
    created_ms = event.created_at * 1000
    if not event.event:
        raise UnfoldableEvent("no_event_name", "the event has no name")
    if created_ms < EARLIEST_MS or not received_ms - MAX_AGE_MS <= created_ms <= received_ms + FUTURE_TOLERANCE_MS:
        raise _implausible(created_ms, received_ms)
    # Comparing types takes a fifth of the time of isinstance, and this runs for every webhook. OwnEvent has no subclass.
    if type(event) is OwnEvent:
        _check_reconciled(event, received_ms)
    room_name = event.room.name if event.room is not None and event.room.name else _room_of_run(event)
    owner = parse_livekit_room(room_name) if room_name else None
    if room_name and owner is None:
        return Observation(created_ms, None, room_name, None, None)
    room = _room(event, owner, created_ms)
    session = _session(event, owner, created_ms)
    run = None
    if event.egress_info is not None or event.ingress_info is not None:
        run = observed_run(event, owner, created_ms)
    return Observation(created_ms, owner, room_name, session, room, run)


def _implausible(created_ms: int, received_ms: int) -> UnfoldableEvent:
    if created_ms < EARLIEST_MS:
        return UnfoldableEvent("no_time", "createdAt is missing or before LiveKit existed")
    if created_ms < received_ms:
        return UnfoldableEvent("too_old", f"createdAt is over {MAX_AGE_DAYS} days before the event was received")
    return UnfoldableEvent("from_the_future", "createdAt is over an hour after the event was received")


def _room_of_run(event: LiveKitEvent) -> str:
    if event.egress_info is not None and event.egress_info.room_name:
        return event.egress_info.room_name
    return event.ingress_info.room_name if event.ingress_info is not None else ""


def _room(event: LiveKitEvent, owner: RoomName | None, created_ms: int) -> Room | None:
    info = event.room
    # The name decides which room followed which, within the name's partition. LiveKit always sends the name.
    if owner is None or info is None or not info.sid or not info.name or event.event not in _WITH_ROOM:
        return None
    return Room(
        sid=info.sid,
        name=info.name,
        project_id=owner.project_id,
        mode=owner.mode,
        created_ms=_created_ms(info, created_ms),
        finished_ms=(created_ms,) if event.event == "room_finished" else (),
    )


def _created_ms(info: RoomInfo, event_ms: int) -> int | None:
    """Return when the room was created (unix ms); None if the time is implausible.

    The time is only used as the end of the previous room of the same name.
    """
    room_ms = info.creation_time_ms or info.creation_time * 1000
    return room_ms if EARLIEST_MS <= room_ms <= event_ms + END_BEFORE_START_TOLERANCE_MS else None


def _session(event: LiveKitEvent, owner: RoomName | None, created_ms: int) -> Session | None:
    participant, name = event.participant, event.event
    if name in _TRACK_EVENTS:
        read = _track_of
    elif name in _PARTICIPANT_EVENTS:
        read = _presence
    elif name in _RECONCILED:
        read = _reconciled
    else:
        return None
    if participant is None or not participant.sid:
        raise UnfoldableEvent("no_participant", f"{name} names no participant")
    project_id, mode, room = owner if owner is not None else (None, None, None)
    room_sid = (event.room.sid or None) if event.room is not None else None
    return read(event, participant, created_ms, (project_id, mode, room, room_sid, participant.identity or None))


def _presence(event: LiveKitEvent, participant: ParticipantInfo, created_ms: int, place: _Place) -> Session:
    """Read an event about the participant itself.

    Without a joining time, `left` and `aborted` also give the start: the session then has no length.
    """
    project_id, mode, room, room_sid, identity = place
    name = event.event
    reason = str(participant.disconnect_reason) if name != JOINED else ""
    return Session(
        sid=participant.sid,
        project_id=project_id,
        mode=mode,
        room=room,
        room_sid=room_sid,
        identity=identity,
        name=participant.name[:MAX_TEXT] if participant.name else None,
        kind=str(participant.kind) or None,
        joined_ms=_joined_ms(participant, created_ms),
        first_seen_ms=created_ms,
        active_ms=created_ms if name == JOINED else None,
        left_ms=created_ms if name == LEFT else None,
        aborted_ms=created_ms if name == ABORTED else None,
        disconnect_reason=reason[:MAX_TEXT] if reason else None,
    )


def _joined_ms(participant: ParticipantInfo, created_ms: int) -> int | None:
    joined_ms = participant.joined_at_ms or participant.joined_at * 1000
    if not joined_ms:
        return None
    if joined_ms < EARLIEST_MS:
        raise UnfoldableEvent("no_time", "joinedAt is before LiveKit existed")
    if joined_ms > created_ms + END_BEFORE_START_TOLERANCE_MS:
        raise UnfoldableEvent("end_before_start", "the event was created before its participant joined")
    if joined_ms < created_ms - MAX_SESSION_MS:
        raise UnfoldableEvent("too_long", f"joinedAt is over {MAX_SESSION_DAYS} days before the event")
    return joined_ms


def _track_of(event: LiveKitEvent, participant: ParticipantInfo, created_ms: int, place: _Place) -> Session:
    project_id, mode, room, room_sid, identity = place
    track = _named_track(event)
    published = event.event == "track_published"
    seen = Track(
        str(track.type), str(track.source), created_ms if published else None, None if published else created_ms
    )
    return Session(
        sid=participant.sid,
        project_id=project_id,
        mode=mode,
        room=room,
        room_sid=room_sid,
        identity=identity,
        first_seen_ms=created_ms,
        tracks={track.sid: seen},
    )


def _named_track(event: LiveKitEvent) -> TrackInfo:
    if event.track is None or not event.track.sid:
        raise UnfoldableEvent("no_track", f"{event.event} names no track")
    if len(event.track.sid) > MAX_TRACK_SID:
        raise UnfoldableEvent("no_track", f"the sid of the track has over {MAX_TRACK_SID} characters")
    return event.track


def _reconciled(event: LiveKitEvent, participant: ParticipantInfo, created_ms: int, place: _Place) -> Session:
    project_id, mode, room, room_sid, identity = place
    return msgspec.structs.replace(
        _found_session(event, participant, created_ms),
        project_id=project_id,
        mode=mode,
        room=room,
        room_sid=room_sid,
        identity=identity,
    )


def _found_session(event: LiveKitEvent, participant: ParticipantInfo, created_ms: int) -> Session:
    sid = participant.sid
    seen_ms, gone_ms = reconciled_times(event)
    if event.event == TRACK_GONE:
        track = _named_track(event)
        gone = Track(str(track.type), str(track.source), None, None, seen_ms, gone_ms)
        return Session(sid=sid, tracks={track.sid: gone})
    if event.event == GONE:
        return Session(sid=sid, sighted_ms=seen_ms, gone_ms=gone_ms)
    return Session(
        sid=sid,
        name=participant.name[:MAX_TEXT] or None,
        kind=str(participant.kind) or None,
        joined_ms=_joined_ms(participant, created_ms),
        first_seen_ms=seen_ms,
        sighted_ms=seen_ms,
        tracks=_listed_tracks(participant, seen_ms),
    )


def _listed_tracks(participant: ParticipantInfo, seen_ms: int | None) -> dict[str, Track]:
    """Return the tracks of a listing, by sid.

    A listing does not contain when a track was published, only that it was published by ``seen_ms``.
    """
    if not isinstance(participant, ListedParticipant):
        return {}
    listed = sorted((track for track in participant.tracks if 0 < len(track.sid) <= MAX_TRACK_SID), key=_sid)
    tracks: dict[str, Track] = {}
    for track in listed[:MAX_TRACKS]:
        tracks.setdefault(track.sid, Track(str(track.type), str(track.source), seen_ms, None, seen_ms))
    return tracks


def _sid(track: TrackInfo) -> str:
    return track.sid


def _check_reconciled(event: OwnEvent, received_ms: int) -> None:
    for at_ms in reconciled_times(event):
        if at_ms is not None and not EARLIEST_MS <= at_ms <= received_ms + FUTURE_TOLERANCE_MS:
            raise UnfoldableEvent("no_time", "a time that reconciliation found cannot be true")
