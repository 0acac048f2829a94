"""Bill a session: cut its interval at UTC hours and compute the milliseconds of each meter.

The stored rollup is always the sum of ``usage_of`` over all sessions that have ended. A session counts for at most
``MAX_SESSION_MS``. The cost of billing it does not grow with its length. Times are unix milliseconds.
"""

from collections.abc import Callable
from typing import NamedTuple

from shared.infra.clock import HOUR_MS, SECOND_MS, floor_to
from shared.metering.hours import (
    LONG_MS,
    MAX_SESSION_MS,
    Usage,
    WholeHours,
    by_hour,
    covered,
    cut_at_edges,
    cut_into_hours,
)
from shared.metering.state import EndedBy, Room, Session, Track

# Recorders are not participants: LiveKit's egress joins the room that it records.
UNMETERED_KINDS = frozenset({"EGRESS"})
DEFAULT_KIND = "STANDARD"
_NEVER_MS = 1 << 62


class Interval(NamedTuple):
    """Connected time, half-open: ``[start_ms, end_ms)``. ``end_ms`` is None for an open session."""

    start_ms: int
    end_ms: int | None
    ended_by: EndedBy | None


def kind_of(session: Session) -> str:
    """Return the participant's kind, by which usage is summed."""
    return session.kind or DEFAULT_KIND


def interval_of(session: Session, room: Room | None) -> Interval | None:
    """Return when the participant was connected, cut to ``MAX_SESSION_MS``; None if it never was.

    The end is the first of these that is known:

    1. the participant's own leave or abort;
    2. the first end of its room after the start, unless LiveKit no longer listed the participant by then;
    3. the last sign of the participant, if LiveKit no longer lists it or the next room of this name exists.

    An aborted connection counts only if it was connected before: ``joined`` seconds earlier, media published, or listed by
    LiveKit. A ``joined`` that is not earlier than the abort comes from a race inside LiveKit and does not count.
    """
    interval = _whole_interval(session, room)
    if interval is None:
        return None
    start_ms, end_ms, ended_by = interval
    if end_ms is None or end_ms - start_ms <= MAX_SESSION_MS:
        return interval
    return Interval(start_ms, start_ms + MAX_SESSION_MS, ended_by)


def _whole_interval(session: Session, room: Room | None) -> Interval | None:
    start_ms = start_of(session)
    if start_ms is None:
        return None
    if session.aborted_ms is not None and session.left_ms is None and not _was_connected(session):
        return None
    own_end, ended_by = _own_end(session)
    if own_end is not None:
        return Interval(start_ms, max(start_ms, own_end), ended_by)
    last_sign_ms = last_sign_of(session, start_ms)
    gone_ms = session.gone_ms if session.gone_ms is not None and session.gone_ms > last_sign_ms else None
    for finished_ms in room.finished_ms if room is not None else ():
        # Event times are floored to the second. A room that finished at 10.9 s is reported at 10 s, a join at 10.7 s at
        # 10.7 s.
        if finished_ms + SECOND_MS > start_ms:
            # A room may outlive its participants, so its end is not the end of a participant that was already missing.
            if gone_ms is None or finished_ms <= gone_ms:
                return Interval(start_ms, max(start_ms, finished_ms), "room_finished")
            break
    superseded_ms = room.superseded_ms if room is not None else None
    if superseded_ms is not None and superseded_ms > start_ms:
        return Interval(start_ms, min(last_sign_ms, superseded_ms), "reconciled")
    if gone_ms is not None:
        return Interval(start_ms, last_sign_ms, "reconciled")
    return Interval(start_ms, None, None)


def start_of(session: Session) -> int | None:
    """Return when the session began, if that is known."""
    return session.joined_ms if session.joined_ms is not None else session.first_seen_ms


def last_sign_of(session: Session, start_ms: int) -> int:
    """Return the latest instant at which this state shows the participant connected."""
    signs = [start_ms, session.active_ms, session.sighted_ms]
    for track in session.tracks.values():
        signs += (track.published_ms, track.unpublished_ms, track.sighted_ms)
    return max(sign for sign in signs if sign is not None)


def stale_after_ms(reconcile_interval_s: int) -> int | None:
    """Return how long (ms) an open session counts without a confirmation.

    None means no limit, if reconciliation is off. The limit is three intervals, and half a minute for the passes themselves. So
    the numbers do not jump when LiveKit's API fails for two passes in a row.
    """
    return None if reconcile_interval_s == 0 else 3 * reconcile_interval_s * 1000 + 30_000


def counted_until(session: Session, confirmed_ms: int | None, now_ms: int, stale_ms: int | None) -> int:
    """Return the time up to which an open session counts at ``now_ms``.

    It counts up to now if a sign showed it connected within the last ``stale_ms`` (``stale_after_ms``). Signs are the
    session's own events and LiveKit's listing (``confirmed_ms``, stored outside the state because every pass changes it).
    Otherwise it counts up to the last sign, so that a long outage of LiveKit or its API is not billed. After the next
    confirmation all of the time counts again. The result is never before the session's start and never more than
    ``MAX_SESSION_MS`` after it. A session without a start has no usage in any case.
    """
    start_ms = start_of(session)
    if start_ms is None:
        return now_ms
    sign_ms = last_sign_of(session, start_ms)
    last_sign_ms = sign_ms if confirmed_ms is None else max(sign_ms, confirmed_ms)
    until_ms = now_ms if stale_ms is None or now_ms - last_sign_ms <= stale_ms else last_sign_ms
    return min(until_ms, start_ms + MAX_SESSION_MS)


def _was_connected(session: Session) -> bool:
    # Any track event proves it. An unpublish proves a publish whose event was lost.
    if session.tracks or session.sighted_ms is not None:
        return True
    return session.active_ms is not None and session.aborted_ms is not None and session.active_ms < session.aborted_ms


def _own_end(session: Session) -> tuple[int | None, EndedBy | None]:
    if session.left_ms is not None and (session.aborted_ms is None or session.left_ms <= session.aborted_ms):
        return session.left_ms, "left"
    return session.aborted_ms, "aborted" if session.aborted_ms is not None else None


def is_metered(session: Session) -> bool:
    """Return False for recorders, and for a session whose project is not known yet."""
    return session.project_id is not None and kind_of(session) not in UNMETERED_KINDS


class Bill(NamedTuple):
    """When a session was connected, and its usage. An open session has no usage.

    ``usage`` holds single UTC hours. ``whole`` holds the equal hours between them, for a long session.
    """

    interval: Interval | None
    usage: dict[int, Usage]
    whole: tuple[WholeHours, ...] = ()

    def total(self) -> Usage:
        """Return the sums over all hours."""
        sums = [sum(amounts) for amounts in zip(*self.usage.values(), strict=True)] or [0] * len(Usage._fields)
        for from_ms, to_ms, usage in self.whole:
            count = (to_ms - from_ms) // HOUR_MS
            sums = [known + count * amount for known, amount in zip(sums, usage, strict=True)]
        return Usage(*sums)

    def by_hour(self) -> dict[int, Usage]:
        """Return the usage of every single hour."""
        hours = dict(self.usage)
        for from_ms, to_ms, usage in self.whole:
            hours.update(dict.fromkeys(range(from_ms, to_ms, HOUR_MS), usage))
        return dict(sorted(hours.items())) if self.whole else hours


NOTHING = Bill(None, {})


def bill_of(session: Session, room: Room | None) -> Bill:
    """Return the interval and the usage of a session. An open session has no usage."""
    interval = interval_of(session, room) if is_metered(session) else None
    if interval is None:
        return NOTHING
    if interval.end_ms is None:
        return Bill(interval, {})
    return bill_between(session, interval, interval.start_ms, interval.end_ms)


def usage_of(session: Session, room: Room | None, now_ms: int | None = None) -> dict[int, Usage]:
    """Return usage by UTC hour (its start).

    An open session counts up to ``now_ms``, or nothing without it.
    """
    bill = bill_of(session, room)
    return bill.by_hour() if now_ms is None else bill_until(session, room, now_ms).by_hour()


def bill_until(session: Session, room: Room | None, now_ms: int, before_ms: int | None = None) -> Bill:
    """Return the bill of a session at ``now_ms``, open or not. ``before_ms``: only the part before it."""
    interval = interval_of(session, room) if is_metered(session) else None
    if interval is None:
        return NOTHING
    start_ms, end_ms, _ = interval
    if end_ms is None:
        end_ms = min(max(now_ms, start_ms), start_ms + MAX_SESSION_MS)
    return bill_between(session, interval, start_ms, end_ms if before_ms is None else min(end_ms, before_ms))


def bill_between(session: Session, interval: Interval, from_ms: int, to_ms: int) -> Bill:
    """Return the bill of the part of ``interval`` within ``[from_ms, to_ms)``."""
    start_ms = max(interval.start_ms, from_ms)
    end_ms = to_ms if interval.end_ms is None else min(interval.end_ms, to_ms)
    usage: dict[int, Usage] = {}
    if from_ms <= interval.start_ms and (interval.start_ms < to_ms or from_ms == to_ms):
        usage[floor_to(interval.start_ms, HOUR_MS)] = Usage(0, 0, 0, 0, 1)
    if end_ms <= start_ms:
        return Bill(interval, usage)
    if end_ms - start_ms > LONG_MS:
        return _long_bill(session, interval, start_ms, end_ms, usage)
    video = by_hour(track_intervals(session, start_ms, end_ms, _is_video))
    screen = by_hour(track_intervals(session, start_ms, end_ms, _is_screen_share)) if video else {}
    inferred = interval.ended_by == "reconciled"
    for hour_ms, begin, end in cut_into_hours(start_ms, end_ms):
        usage[hour_ms] = Usage(
            end - begin,
            video.get(hour_ms, 0),
            screen.get(hour_ms, 0),
            end - begin if inferred else 0,
            usage[hour_ms].sessions if hour_ms in usage else 0,
        )
    return Bill(interval, usage)


def _long_bill(session: Session, interval: Interval, start_ms: int, end_ms: int, usage: dict[int, Usage]) -> Bill:
    video = track_intervals(session, start_ms, end_ms, _is_video)
    screen = track_intervals(session, start_ms, end_ms, _is_screen_share) if video else []
    pieces = list(cut_at_edges(start_ms, end_ms, (edge for span in (*video, *screen) for edge in span)))
    inferred = interval.ended_by == "reconciled"
    whole = []
    for (begin, end), video_ms, screen_ms in zip(pieces, covered(pieces, video), covered(pieces, screen), strict=True):
        length, hour_ms = end - begin, floor_to(begin, HOUR_MS)
        if length <= HOUR_MS:
            sessions = usage[hour_ms].sessions if hour_ms in usage else 0
            usage[hour_ms] = Usage(length, video_ms, screen_ms, length if inferred else 0, sessions)
            continue
        hours = length // HOUR_MS
        each = Usage(HOUR_MS, video_ms // hours, screen_ms // hours, HOUR_MS if inferred else 0)
        whole.append(WholeHours(begin, end, each))
    return Bill(interval, usage, tuple(whole))


def _is_video(track: Track) -> bool:
    return track.type == "VIDEO"


def _is_screen_share(track: Track) -> bool:
    return track.type == "VIDEO" and track.source == "SCREEN_SHARE"


def _track_end(track: Track) -> int | None:
    if track.unpublished_ms is not None:
        return track.unpublished_ms
    signs = [at for at in (track.published_ms, track.sighted_ms) if at is not None]
    if track.gone_ms is not None and signs and track.gone_ms > max(signs):
        return max(signs)
    return None


def is_running(track: Track) -> bool:
    """Return whether a track is known to have been published and not to have ended."""
    return track.published_ms is not None and _track_end(track) is None


def track_intervals(
    session: Session, start_ms: int, end_ms: int, wanted: Callable[[Track], bool] = _is_video
) -> list[tuple[int, int]]:
    """Return when at least one wanted track was published, within ``[start_ms, end_ms)``.

    The intervals are disjoint and ascending. A track without an unpublish ends with the session. An unpublish without a publish
    has no start and does not count.
    """
    spans = []
    for track in session.tracks.values():
        if wanted(track) and track.published_ms is not None:
            off = _track_end(track)
            spans.append((max(track.published_ms, start_ms), end_ms if off is None else min(off, end_ms)))
    spans.sort()
    disjoint: list[tuple[int, int]] = []
    for on, off in spans:
        if off <= on:
            continue
        if disjoint and on <= disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(disjoint[-1][1], off))
        else:
            disjoint.append((on, off))
    return disjoint


def on_off(session: Session, start_ms: int) -> tuple[list[int], list[int]]:
    """Return when an open session's video and its screen share were switched on, off, on, and so on.

    An odd number of times means that it is still on.
    """
    found: list[list[int]] = []
    for wanted in (_is_video, _is_screen_share):
        edges = [edge for span in track_intervals(session, start_ms, _NEVER_MS, wanted) for edge in span]
        found.append(edges[:-1] if edges and edges[-1] == _NEVER_MS else edges)
    return found[0], found[1]
