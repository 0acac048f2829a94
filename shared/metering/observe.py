"""Reads one LiveKit event into what it tells of a session and of a room.

Times must be plausible (docs/metering.md, "Quarantine"): an event has one of the last ``MAX_AGE_MS``, and nothing in it began
more than ``MAX_SESSION_MS`` before it. What an event holds is bounded too, so that no event makes a large state.

Facts about the events are from livekit-server v1.13 (pkg/rtc, pkg/telemetry/events.go) and livekit/protocol's webhook
package: ``createdAt`` is whole seconds, floored; ``joinedAtMs`` is when the participant connected, older servers send only
``joinedAt`` in seconds; track events carry of the participant only sid and identity.
"""

from typing import TypeAlias

import msgspec

from shared.errors import UnfoldableEvent
from shared.infra.clock import DAY_MS
from shared.infra.ids import Mode, RoomName, parse_livekit_room
from shared.metering.hours import MAX_SESSION_DAYS, MAX_SESSION_MS
from shared.metering.state import MAX_TRACKS, MediaRun, Room, Session, Track
from shared.models.livekit_event import (
    IngressInfo,
    ListedParticipant,
    LiveKitEvent,
    OwnEvent,
    ParticipantInfo,
    RoomInfo,
    TrackInfo,
)

# LiveKit's clock may be this far ahead of ours before its times are not believed.
FUTURE_TOLERANCE_MS = 3_600_000
# 2020-01-01: before LiveKit existed. A clock that was never set, not a call.
_EARLIEST_MS = 1_577_836_800_000
# An event older than this when it arrives comes from a clock that is wrong. LiveKit itself retries for seconds.
MAX_AGE_DAYS = 366
MAX_AGE_MS = MAX_AGE_DAYS * DAY_MS
# The display name and the reason of a disconnect are cut to so many characters. LiveKit's default limit of a name is 256.
_MAX_TEXT = 512
# A track sid of LiveKit has 15 characters.
_MAX_TRACK_SID = 128
# createdAt is floored to the second and stamped by another goroutine than joinedAtMs.
_END_BEFORE_START_TOLERANCE_MS = 5_000

JOINED, LEFT, ABORTED = "participant_joined", "participant_left", "participant_connection_aborted"
_PARTICIPANT_EVENTS = {JOINED, LEFT, ABORTED}
_TRACK_EVENTS = {"track_published", "track_unpublished"}
_ROOM_EVENTS = {"room_started", "room_finished"}
# Reconciliation puts what LiveKit's API lists into events of its own, so that the kept events prove every minute.
SEEN, GONE, TRACK_GONE = "relay_participant_seen", "relay_participant_gone", "relay_track_gone"
EGRESS_SEEN, EGRESS_GONE = "relay_egress_seen", "relay_egress_gone"
INGRESS_SEEN, INGRESS_GONE = "relay_ingress_seen", "relay_ingress_gone"
_RECONCILED = {SEEN, GONE, TRACK_GONE}
# These describe the room as a whole; the others name it at most.
_WITH_ROOM = _ROOM_EVENTS | _PARTICIPANT_EVENTS | {SEEN}
_RUN_GONE = {EGRESS_GONE, INGRESS_GONE}
_NS_PER_MS = 1_000_000


# The project, mode and room of a session (None where the event does not name a room of ours), its room sid and identity.
_Place: TypeAlias = tuple[str | None, Mode | None, str | None, str | None, str | None]


class Observation(msgspec.Struct, frozen=True, gc=False):
    """What an event tells. ``owner`` is whose room it concerns, None for a room that Relay did not name."""

    created_ms: int
    owner: RoomName | None
    room_name: str
    session: Session | None
    room: Room | None
    run: MediaRun | None = None


def observe(event: LiveKitEvent, received_ms: int) -> Observation:
    """Read an event received at ``received_ms``. Raises ``UnfoldableEvent`` for one whose content cannot be true.

    Only an ``OwnEvent`` can tell what reconciliation found."""
    created_ms = event.created_at * 1000
    if not event.event:
        raise UnfoldableEvent("no_event_name", "the event has no name")
    if created_ms < _EARLIEST_MS or not received_ms - MAX_AGE_MS <= created_ms <= received_ms + FUTURE_TOLERANCE_MS:
        raise _implausible(created_ms, received_ms)
    # Comparing types takes a fifth of the time of isinstance, and this runs for every webhook. OwnEvent has no subclass.
    if type(event) is OwnEvent:
        _check_found(event, received_ms)
    room_name = event.room.name if event.room is not None and event.room.name else _room_of_run(event)
    owner = parse_livekit_room(room_name) if room_name else None
    if room_name and owner is None:
        return Observation(created_ms, None, room_name, None, None)
    room = _room(event, owner, created_ms)
    session = _session(event, owner, created_ms)
    run = None
    if event.egress_info is not None or event.ingress_info is not None:
        run = _run(event, owner, created_ms)
    return Observation(created_ms, owner, room_name, session, room, run)


def _implausible(created_ms: int, received_ms: int) -> UnfoldableEvent:
    if created_ms < _EARLIEST_MS:
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
    # Which room followed is told by the name, in the name's partition; LiveKit never leaves it out.
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
    """When the room was created, if that can be true: it tells when the room before it was over, and nothing else."""
    room_ms = info.creation_time_ms or info.creation_time * 1000
    return room_ms if _EARLIEST_MS <= room_ms <= event_ms + _END_BEFORE_START_TOLERANCE_MS else None


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
    """Of an event about the participant itself. Where no joining time is known, `left` and `aborted` are a start as well: of a
    session of no length."""
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
        name=participant.name[:_MAX_TEXT] if participant.name else None,
        kind=str(participant.kind) or None,
        joined_ms=_joined_ms(participant, created_ms),
        first_seen_ms=created_ms,
        active_ms=created_ms if name == JOINED else None,
        left_ms=created_ms if name == LEFT else None,
        aborted_ms=created_ms if name == ABORTED else None,
        disconnect_reason=reason[:_MAX_TEXT] if reason else None,
    )


def _joined_ms(participant: ParticipantInfo, created_ms: int) -> int | None:
    joined_ms = participant.joined_at_ms or participant.joined_at * 1000
    if not joined_ms:
        return None
    if joined_ms < _EARLIEST_MS:
        raise UnfoldableEvent("no_time", "joinedAt is before LiveKit existed")
    if joined_ms > created_ms + _END_BEFORE_START_TOLERANCE_MS:
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
    if len(event.track.sid) > _MAX_TRACK_SID:
        raise UnfoldableEvent("no_track", f"the sid of the track has over {_MAX_TRACK_SID} characters")
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
    seen_ms, gone_ms = _found(event)
    if event.event == TRACK_GONE:
        track = _named_track(event)
        gone = Track(str(track.type), str(track.source), None, None, seen_ms, gone_ms)
        return Session(sid=sid, tracks={track.sid: gone})
    if event.event == GONE:
        return Session(sid=sid, sighted_ms=seen_ms, gone_ms=gone_ms)
    return Session(
        sid=sid,
        name=participant.name[:_MAX_TEXT] or None,
        kind=str(participant.kind) or None,
        joined_ms=_joined_ms(participant, created_ms),
        first_seen_ms=seen_ms,
        sighted_ms=seen_ms,
        tracks=_listed_tracks(participant, seen_ms),
    )


def _listed_tracks(participant: ParticipantInfo, seen_ms: int | None) -> dict[str, Track]:
    """The tracks of a listing. It does not tell when they were published: by now they were."""
    if not isinstance(participant, ListedParticipant):
        return {}
    listed = sorted((track for track in participant.tracks if 0 < len(track.sid) <= _MAX_TRACK_SID), key=_sid)
    tracks: dict[str, Track] = {}
    for track in listed[:MAX_TRACKS]:
        tracks.setdefault(track.sid, Track(str(track.type), str(track.source), seen_ms, None, seen_ms))
    return tracks


def _sid(track: TrackInfo) -> str:
    return track.sid


def _found(event: LiveKitEvent) -> tuple[int | None, int | None]:
    """When reconciliation saw and missed what its event is about (unix ms)."""
    if not isinstance(event, OwnEvent) or event.relay is None:
        return None, None
    return event.relay.seen_ms or None, event.relay.gone_ms or None


def _check_found(event: OwnEvent, received_ms: int) -> None:
    for at_ms in _found(event):
        if at_ms is not None and not _EARLIEST_MS <= at_ms <= received_ms + FUTURE_TOLERANCE_MS:
            raise UnfoldableEvent("no_time", "a time that reconciliation found cannot be true")


def _run(event: LiveKitEvent, owner: RoomName | None, created_ms: int) -> MediaRun | None:
    run = _egress(event, created_ms) or _ingress(event, created_ms)
    if run is None:
        return None
    seen_ms, gone_ms = _found(event)
    return msgspec.structs.replace(
        run,
        project_id=owner.project_id if owner else None,
        mode=owner.mode if owner else None,
        room=owner.display if owner else None,
        sighted_ms=seen_ms,
        gone_ms=gone_ms if event.event in _RUN_GONE else None,
    )


def _egress(event: LiveKitEvent, created_ms: int) -> MediaRun | None:
    info = event.egress_info
    if info is None or not info.egress_id:
        return None
    ended_ms = _checked_ns(info.ended_at, created_ms)
    return MediaRun(
        id=info.egress_id,
        meter="egress",
        type=next((name for name in EGRESS_TYPES if getattr(info, name) is not None), None),
        started_ms=_checked_ns(info.started_at, created_ms),
        ended_ms=created_ms if ended_ms is None and event.event == "egress_ended" else ended_ms,
    )


EGRESS_TYPES = ("room_composite", "web", "participant", "track_composite", "track")


def _ingress(event: LiveKitEvent, created_ms: int) -> MediaRun | None:
    info = event.ingress_info
    if info is None or not info.ingress_id:
        return None
    state = info.state
    started_ms = _checked_ns(state.started_at, created_ms) if state else None
    ended_ms = _checked_ns(state.ended_at, created_ms) if state else None
    return MediaRun(
        id=ingress_run_id(info),
        meter="ingress",
        type=str(info.input_type)[:_MAX_TEXT].removesuffix("_INPUT").lower() or None,
        started_ms=created_ms if started_ms is None and event.event == "ingress_started" else started_ms,
        ended_ms=created_ms if ended_ms is None and event.event == "ingress_ended" else ended_ms,
    )


def ingress_run_id(info: IngressInfo) -> str:
    """One ingress can be used again and again; a run is told by its resource, in older servers by its start (ms)."""
    state = info.state
    run = (state.resource_id if state else "") or str((state.started_at if state else 0) // _NS_PER_MS or "")
    return f"{info.ingress_id}/{run}"


def _checked_ns(at_ns: int, created_ms: int) -> int | None:
    """Nanoseconds as milliseconds, None for 0. Raises ``UnfoldableEvent`` for a time that cannot be true."""
    at_ms = at_ns // _NS_PER_MS
    if not at_ms:
        return None
    if not _EARLIEST_MS <= at_ms <= created_ms + FUTURE_TOLERANCE_MS:
        raise UnfoldableEvent("no_time", "a time of the egress or ingress cannot be true")
    if at_ms < created_ms - MAX_SESSION_MS:
        raise UnfoldableEvent("too_long", f"the egress or ingress began over {MAX_SESSION_DAYS} days before the event")
    return at_ms
