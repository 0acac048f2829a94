"""What a session costs: its interval, cut at UTC hours into participant and video milliseconds.

The stored rollup is at any moment the sum of ``usage_of`` over all sessions that have ended.
"""

from typing import NamedTuple

from shared.clock import HOUR_MS, floor_to
from shared.metering.state import EndedBy, Room, Session

# Recorders are no participants: LiveKit's egress joins the room it records.
UNMETERED_KINDS = frozenset({"EGRESS"})
DEFAULT_KIND = "STANDARD"
# Event times are floored to the second: a room that finished at 10.9 s is reported at 10, a join at 10.7 in milliseconds.
_SECOND_MS = 1000


class Interval(NamedTuple):
    """Connected time, half-open: ``[start_ms, end_ms)``. ``end_ms`` is None while the session is open."""

    start_ms: int
    end_ms: int | None
    ended_by: EndedBy | None


class Usage(NamedTuple):
    """Milliseconds. Audio time is ``participant_ms - video_ms``: an instant without a video track is audio."""

    participant_ms: int
    video_ms: int


def kind_of(session: Session) -> str:
    return session.kind or DEFAULT_KIND


def interval_of(session: Session, room: Room | None) -> Interval | None:
    """When the participant was connected; None if it never was.

    The end is decided by class: the participant's own leaving (or abort) before the room's finishing; within a class the
    earliest. An aborted connection counts only if it was connected before: ``joined`` seconds earlier, or media published.
    A ``joined`` not earlier than the abort is a race inside LiveKit and no usage.
    """
    start_ms = session.joined_ms if session.joined_ms is not None else session.first_seen_ms
    if start_ms is None:
        return None
    if session.aborted_ms is not None and session.left_ms is None and not _was_connected(session):
        return None
    own_end, ended_by = _own_end(session)
    if own_end is not None:
        return Interval(start_ms, max(start_ms, own_end), ended_by)
    for finished_ms in room.finished_ms if room is not None else ():
        if finished_ms + _SECOND_MS > start_ms:
            return Interval(start_ms, max(start_ms, finished_ms), "room_finished")
    return Interval(start_ms, None, None)


def _was_connected(session: Session) -> bool:
    # Any track event: an unpublish proves the publish whose own event was lost.
    if session.tracks:
        return True
    return session.active_ms is not None and session.aborted_ms is not None and session.active_ms < session.aborted_ms


def _own_end(session: Session) -> tuple[int | None, EndedBy | None]:
    if session.left_ms is not None and (session.aborted_ms is None or session.left_ms <= session.aborted_ms):
        return session.left_ms, "left"
    return session.aborted_ms, "aborted" if session.aborted_ms is not None else None


def is_metered(session: Session) -> bool:
    """False for recorders, and while it is not known whose session it is."""
    return session.project_id is not None and kind_of(session) not in UNMETERED_KINDS


def usage_of(session: Session, room: Room | None, now_ms: int | None = None) -> dict[int, Usage]:
    """Usage by UTC hour (unix ms of its start). An open session counts nothing unless ``now_ms`` says how far it has come."""
    interval = interval_of(session, room) if is_metered(session) else None
    if interval is None:
        return {}
    end_ms = interval.end_ms if interval.end_ms is not None else now_ms
    if end_ms is None or end_ms <= interval.start_ms:
        return {}
    video = video_intervals(session, interval.start_ms, end_ms)
    usage: dict[int, Usage] = {}
    hour_ms = floor_to(interval.start_ms, HOUR_MS)
    while hour_ms < end_ms:
        begin, end = max(hour_ms, interval.start_ms), min(hour_ms + HOUR_MS, end_ms)
        video_ms = sum(min(end, off) - max(begin, on) for on, off in video if on < end and off > begin)
        usage[hour_ms] = Usage(end - begin, video_ms)
        hour_ms += HOUR_MS
    return usage


def video_intervals(session: Session, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """When at least one video track was published, as disjoint ascending intervals inside ``[start_ms, end_ms)``. A track
    without an unpublish ends with the session; an unpublish without a publish has no start and counts nothing."""
    spans = sorted(
        (
            max(track.published_ms, start_ms),
            end_ms if track.unpublished_ms is None else min(track.unpublished_ms, end_ms),
        )
        for track in session.tracks.values()
        if track.type == "VIDEO" and track.published_ms is not None
    )
    disjoint: list[tuple[int, int]] = []
    for on, off in spans:
        if off <= on:
            continue
        if disjoint and on <= disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(disjoint[-1][1], off))
        else:
            disjoint.append((on, off))
    return disjoint
