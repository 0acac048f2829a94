"""The states of sessions, rooms and runs, as join-semilattices.

Every register only moves in one direction: the least time seen, the greatest non-empty name, the union of a set. So ``merge``
is commutative, associative and idempotent: any order, repetition or split of the events gives the same state. Sets are bounded:
they keep their ``MAX_TRACKS`` or ``MAX_FINISHES`` least elements. An element that is dropped once would be dropped again later,
so the laws hold with the bound. Times are unix milliseconds; None means "never seen". ``gc=False``: frozen trees of text and
numbers have no cycles to collect.
"""

import heapq
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, TypeVar

import msgspec

from shared.infra.ids import Mode

Text = TypeVar("Text", bound=str)
EndedBy = Literal["left", "aborted", "room_finished", "reconciled"]
# LiveKit's value for a source that was not sent. It counts as the least of all sources. AUDIO is the least of the types.
UNKNOWN_SOURCE = "UNKNOWN"
MeterName = Literal["egress", "ingress"]
# Tracks that a session keeps, by sid. Further tracks of the connection do not count as video.
MAX_TRACKS = 1000
# Finish times that a room keeps. Further finishes of the same sid end no session.
MAX_FINISHES = 1000


class Track(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One published track.

    ``type`` is LiveKit's TrackType (AUDIO, VIDEO or DATA), ``source`` its TrackSource. ``published_ms`` is the least time at
    which it is known to have been published: the time of its event, or of the first listing with it. ``sighted_ms`` and
    ``gone_ms`` are those of ``Session``.
    """

    type: str
    source: str
    published_ms: int | None = None
    unpublished_ms: int | None = None
    sighted_ms: int | None = None
    gone_ms: int | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One participant sid, from connecting to leaving. A reconnect has a new sid, so it is a new session.

    ``joined_ms`` is the least joining time that LiveKit sent. ``first_seen_ms`` is the least time of an event that only
    shows that the participant was there; it is the start where no joining time is known. ``active_ms`` is when LiveKit sent
    ``participant_joined``.

    Reconciliation finds the last two times. ``sighted_ms`` is the last time LiveKit listed the participant, as far as this
    state knows. ``gone_ms`` is the last time from which LiveKit was found not to list it any more.
    """

    sid: str
    project_id: str | None = None
    mode: Mode | None = None
    room: str | None = None
    room_sid: str | None = None
    identity: str | None = None
    name: str | None = None
    kind: str | None = None
    joined_ms: int | None = None
    first_seen_ms: int | None = None
    active_ms: int | None = None
    left_ms: int | None = None
    aborted_ms: int | None = None
    sighted_ms: int | None = None
    gone_ms: int | None = None
    disconnect_reason: str | None = None
    tracks: dict[str, Track] = {}


class Room(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One room sid. It can finish more than once: a stored room that is reopened keeps its sid.

    ``superseded_ms``: when the next room of the same name was created. No event contains it. It follows from two rooms
    (``succession``), whichever becomes known first.
    """

    sid: str
    name: str | None = None
    project_id: str | None = None
    mode: Mode | None = None
    created_ms: int | None = None
    finished_ms: tuple[int, ...] = ()
    superseded_ms: int | None = None


class MediaRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One egress, or one run of an ingress.

    ``type`` is room_composite, web, participant, track_composite, track or other for an egress; rtmp, whip or url for an
    ingress. The times are those of LiveKit's EgressInfo and IngressState.
    """

    id: str
    meter: MeterName
    type: str | None = None
    project_id: str | None = None
    mode: Mode | None = None
    room: str | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    sighted_ms: int | None = None
    gone_ms: int | None = None


def least(a: int | None, b: int | None) -> int | None:
    """Return the lesser of two times; None counts as unknown."""
    if a is None:
        return b
    return a if b is None or a < b else b


def latest(a: int | None, b: int | None) -> int | None:
    """Return the greater of two times; None counts as unknown."""
    if a is None:
        return b
    return a if b is None or a > b else b


def _greatest(a: Text | None, b: Text | None) -> Text | None:
    if not a:
        return b
    return a if not b or a > b else b


def merge_track(a: Track, b: Track) -> Track:
    """Return the least state that contains what ``a`` and ``b`` know about the same track."""
    return Track(
        max(a.type, b.type),
        b.source if a.source == UNKNOWN_SOURCE else a.source if b.source == UNKNOWN_SOURCE else max(a.source, b.source),
        least(a.published_ms, b.published_ms),
        least(a.unpublished_ms, b.unpublished_ms),
        latest(a.sighted_ms, b.sighted_ms),
        latest(a.gone_ms, b.gone_ms),
    )


def _merge_tracks(a: dict[str, Track], b: dict[str, Track]) -> dict[str, Track]:
    if not b:
        return a if len(a) <= MAX_TRACKS else bounded_tracks(a)
    if not a:
        return b if len(b) <= MAX_TRACKS else bounded_tracks(b)
    merged = dict(a)
    for sid, track in b.items():
        known = merged.get(sid)
        merged[sid] = track if known is None else merge_track(known, track)
    return bounded_tracks(merged) if len(merged) > MAX_TRACKS else merged


def bounded_tracks(tracks: dict[str, Track]) -> dict[str, Track]:
    """Return the tracks that a session keeps: those with the least sids."""
    return {sid: tracks[sid] for sid in heapq.nsmallest(MAX_TRACKS, tracks)}


def keeps_track(session: Session, sid: str) -> bool:
    """Return whether a session keeps this track: it has it already, or has space for it."""
    return len(session.tracks) < MAX_TRACKS or sid <= max(session.tracks)


def _has_only_tracks(session: Session) -> bool:
    return (
        session.joined_ms is None
        and session.kind is None
        and session.left_ms is None
        and session.sighted_ms is None
        and session.gone_ms is None
        and session.aborted_ms is None
        and session.active_ms is None
        and session.name is None
        and session.disconnect_reason is None
    )


def _owner(session: Session) -> tuple[str | None, ...]:
    return session.project_id, session.mode, session.room, session.room_sid, session.identity


def merge_session(a: Session, b: Session) -> Session:
    """Return the least state that contains what ``a`` and ``b`` know about the same sid."""
    if _has_only_tracks(a):
        a, b = b, a
    if _has_only_tracks(b) and _owner(a) == _owner(b):
        # Most merges are of this kind. This costs half as much as merging every register.
        first_seen_ms = least(a.first_seen_ms, b.first_seen_ms)
        return msgspec.structs.replace(a, first_seen_ms=first_seen_ms, tracks=_merge_tracks(a.tracks, b.tracks))
    # The registers are mostly equal. Comparing them here costs a third of a call.
    return Session(
        sid=a.sid,
        project_id=a.project_id if a.project_id == b.project_id else _greatest(a.project_id, b.project_id),
        mode=a.mode if a.mode == b.mode else _greatest(a.mode, b.mode),
        room=a.room if a.room == b.room else _greatest(a.room, b.room),
        room_sid=a.room_sid if a.room_sid == b.room_sid else _greatest(a.room_sid, b.room_sid),
        identity=a.identity if a.identity == b.identity else _greatest(a.identity, b.identity),
        name=a.name if a.name == b.name else _greatest(a.name, b.name),
        kind=a.kind if a.kind == b.kind else _greatest(a.kind, b.kind),
        joined_ms=a.joined_ms if a.joined_ms == b.joined_ms else least(a.joined_ms, b.joined_ms),
        first_seen_ms=least(a.first_seen_ms, b.first_seen_ms),
        active_ms=a.active_ms if a.active_ms == b.active_ms else least(a.active_ms, b.active_ms),
        left_ms=a.left_ms if a.left_ms == b.left_ms else least(a.left_ms, b.left_ms),
        aborted_ms=a.aborted_ms if a.aborted_ms == b.aborted_ms else least(a.aborted_ms, b.aborted_ms),
        sighted_ms=a.sighted_ms if a.sighted_ms == b.sighted_ms else latest(a.sighted_ms, b.sighted_ms),
        gone_ms=a.gone_ms if a.gone_ms == b.gone_ms else latest(a.gone_ms, b.gone_ms),
        disconnect_reason=a.disconnect_reason
        if a.disconnect_reason == b.disconnect_reason
        else _greatest(a.disconnect_reason, b.disconnect_reason),
        tracks=_merge_tracks(a.tracks, b.tracks),
    )


def merge_room(a: Room, b: Room) -> Room:
    """Return the least state that contains what ``a`` and ``b`` know about the same room sid."""
    return Room(
        sid=a.sid,
        name=_greatest(a.name, b.name),
        project_id=_greatest(a.project_id, b.project_id),
        mode=_greatest(a.mode, b.mode),
        created_ms=least(a.created_ms, b.created_ms),
        finished_ms=_union(a.finished_ms, b.finished_ms),
        superseded_ms=least(a.superseded_ms, b.superseded_ms),
    )


def merged_rooms(rooms: Iterable[Room]) -> dict[str, Room]:
    """Merge the states of each room, by sid."""
    merged: dict[str, Room] = {}
    for room in rooms:
        known = merged.get(room.sid)
        if known is None:
            merged[room.sid] = room
        elif known != room:  # Most events repeat the stored state of a room. Comparing costs a twentieth of merging.
            merged[room.sid] = merge_room(known, room)
    return merged


def succession(rooms: Iterable[Room]) -> list[Room]:
    """Return states with ``superseded_ms`` for every room that a newer room of the same name follows.

    LiveKit has one room of a name at a time (pkg/service/roommanager.go keeps them by name). So each room was over when the
    next one was created. The order of two rooms created in the same millisecond is unknown, so neither ends the other.
    """
    by_name: dict[str, list[Room]] = {}
    for room in rooms:
        if room.name and room.created_ms is not None:
            by_name.setdefault(room.name, []).append(room)
    superseded = []
    for namesakes in by_name.values():
        created = sorted({room.created_ms for room in namesakes if room.created_ms is not None})
        following = dict(pairwise(created))
        for room in namesakes:
            if room.created_ms in following:
                superseded.append(Room(sid=room.sid, superseded_ms=following[room.created_ms]))
    return superseded


def merge_run(a: MediaRun, b: MediaRun) -> MediaRun:
    """Return the least state that contains what ``a`` and ``b`` know about the same run."""
    return MediaRun(
        id=a.id,
        meter=a.meter,
        type=_greatest(a.type, b.type),
        project_id=_greatest(a.project_id, b.project_id),
        mode=_greatest(a.mode, b.mode),
        room=_greatest(a.room, b.room),
        started_ms=least(a.started_ms, b.started_ms),
        ended_ms=least(a.ended_ms, b.ended_ms),
        sighted_ms=latest(a.sighted_ms, b.sighted_ms),
        gone_ms=latest(a.gone_ms, b.gone_ms),
    )


def _union(a: Iterable[int], b: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*a, *b})[:MAX_FINISHES])
