"""A second meter, written from the definition alone, to check the real one.

It reads the plain list of events as dicts, looks at all of them for every session, and walks each session from boundary to
boundary. It is slow and obvious on purpose, and shares no code with the meter that it checks.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

Event = dict[str, Any]

HOUR = 60 * 60 * 1000
EARLIEST = 1_577_836_800_000  # 2020, before LiveKit
FUTURE = 60 * 60 * 1000
SKEW = 5 * 1000


class Row(NamedTuple):
    """The key of a usage row. ``hour`` is the unix ms of its start."""

    project: str
    mode: str
    hour: int
    kind: str


class Meter:
    """Usage computed from the definition.

    ``usage`` holds (participant ms, video ms, screen share ms, sessions begun) by row, of ended sessions. ``intervals`` holds
    the connected times of ended sessions, by project and mode. ``still_open`` holds the start of each other session.
    """

    def __init__(self, events: list[Event], received_ms: int) -> None:
        self._events = [event for event in events if credible(event, received_ms) and not has_no_owner(event)]
        self.usage: dict[Row, tuple[int, int, int, int]] = {}
        self.intervals: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.still_open: dict[tuple[str, str], list[int]] = {}
        for sid in {event["participant"]["sid"] for event in self._events if "participant" in event}:
            self._meter(sid)

    def _meter(self, sid: str) -> None:
        own = [event for event in self._events if event.get("participant", {}).get("sid") == sid]
        owners = [owner_of(event["room"]["name"]) for event in own if "room" in event]
        kinds = [event["participant"].get("kind", "STANDARD") for event in own if event["event"].startswith("part")]
        kind = kinds[0] if kinds else "STANDARD"
        if not owners or owners[0] is None or kind == "EGRESS" or never_connected(own):
            return
        project, mode = owners[0]
        start, end = start_of(own), self._end(own)
        if end is None:
            self.still_open.setdefault((project, mode), []).append(start)
            return
        if start < end:
            self.intervals.setdefault((project, mode), []).append((start, end))
        tracks, screens = list(video_tracks(own)), list(video_tracks(own, "SCREEN_SHARE"))
        at = start
        self._add(Row(project, mode, at - at % HOUR, kind), 0, 0, 0, 1)
        while at < end:
            # Nothing changes before the next full hour, track edge or the end.
            edges = {edge for track in tracks for edge in track} | {at - at % HOUR + HOUR, end}
            until = min(edge for edge in edges if edge > at)
            row = Row(project, mode, at - at % HOUR, kind)
            seen = any(on <= at < off for on, off in tracks)
            shared = any(on <= at < off for on, off in screens)
            self._add(row, until - at, until - at if seen else 0, until - at if shared else 0, 0)
            at = until

    def _add(self, row: Row, participant_ms: int, video_ms: int, screen_ms: int, sessions: int) -> None:
        before = self.usage.get(row, (0, 0, 0, 0))
        self.usage[row] = (
            before[0] + participant_ms,
            before[1] + video_ms,
            before[2] + screen_ms,
            before[3] + sessions,
        )

    def _end(self, own: list[Event]) -> int | None:
        """Return the end (unix ms), or None for a session that is still open."""
        ends = times(own, "participant_left") + times(own, "participant_connection_aborted")
        if ends:
            return min(ends)
        rooms = {event["room"]["sid"] for event in own if "room" in event}
        finished = [
            created(event)
            for event in self._events
            if event["event"] == "room_finished" and event["room"]["sid"] in rooms
        ]
        start_s = start_of(own) // 1000
        at_finish = min((at for at in finished if at // 1000 >= start_s), default=None)
        if at_finish is not None:
            return at_finish
        followed = min((at for room in rooms for at in self._created_after(room)), default=0)
        return min(last_sign_of(own), followed) if followed > start_of(own) else None

    def _created_after(self, sid: str) -> list[int]:
        """Return when other rooms of the same name were created, if after this room."""
        created_rooms = [(event["room"], room_created(event)) for event in self._events if room_created(event)]
        own = [at for room, at in created_rooms if room["sid"] == sid]
        names = {room["name"] for room, _ in created_rooms if room["sid"] == sid}
        first = {
            room["sid"]: min(at for other, at in created_rooms if other["sid"] == room["sid"])
            for room, _ in created_rooms
        }
        return [
            first[room["sid"]] for room, _ in created_rooms if room["name"] in names and first[room["sid"]] > min(own)
        ]


def never_connected(own: list[Event]) -> bool:
    """Whether the connection aborted without media and without a join in an earlier second."""
    aborted, joined = times(own, "participant_connection_aborted"), times(own, "participant_joined")
    media = [event for event in own if event["event"].startswith("track_")]
    if not aborted or media or times(own, "participant_left"):
        return False
    return not (joined and min(joined) < min(aborted))


def last_sign_of(own: list[Event]) -> int:
    """Return the last sign of presence: the join, or the first publish or unpublish event of a track."""
    signs = [start_of(own), *sorted(times(own, "participant_joined"))[:1]]
    for sid in {event["track"]["sid"] for event in own if "track" in event}:
        about = [event for event in own if event.get("track", {}).get("sid") == sid]
        for name in ("track_published", "track_unpublished"):
            signs += sorted(times(about, name))[:1]
    return max(signs)


def room_created(event: Event) -> int:
    """Return the creation time of the room, or 0 if the event has none or an impossible one."""
    room = event.get("room", {})
    at = int(room.get("creationTimeMs", 0)) or int(room.get("creationTime", 0)) * 1000
    return at if EARLIEST <= at <= created(event) + SKEW else 0


def created(event: Event) -> int:
    return int(event["createdAt"]) * 1000


def joined_at(event: Event) -> int:
    """Return the joining time, or 0 if the event has none."""
    who = event.get("participant", {})
    return int(who.get("joinedAtMs", 0)) or int(who.get("joinedAt", 0)) * 1000


def credible(event: Event, received_ms: int) -> bool:
    in_time = EARLIEST <= created(event) <= received_ms + FUTURE
    return in_time and joined_at(event) <= created(event) + SKEW


def has_no_owner(event: Event) -> bool:
    return "room" in event and owner_of(event["room"]["name"]) is None


def owner_of(room: str) -> tuple[str, str] | None:
    """(project, mode) of a room named ``p_<project>__<display>`` or ``t_…``."""
    first, _, rest = room.partition("_")
    project, separator, display = rest.partition("__")
    if first not in ("p", "t") or not separator or not display or "_" in project:
        return None
    return project, "live" if first == "p" else "test"


def times(own: list[Event], name: str) -> list[int]:
    return [created(event) for event in own if event["event"] == name]


def start_of(own: list[Event]) -> int:
    joins = [joined_at(event) for event in own if joined_at(event)]
    return min(joins) if joins else min(created(event) for event in own)


def video_tracks(own: list[Event], source: str | None = None) -> Iterator[tuple[int, int]]:
    """Yield (publish, unpublish or far future) of the video tracks of one source, or of all."""
    tracks = [event["track"] for event in own if event.get("track", {}).get("type") == "VIDEO"]
    sids = {track["sid"] for track in tracks if source is None or track.get("source") == source}
    for sid in sids:
        about = [event for event in own if event.get("track", {}).get("sid") == sid]
        on, off = times(about, "track_published"), times(about, "track_unpublished")
        if on:
            yield min(on), min(off, default=1 << 62)


def level_at(intervals: list[tuple[int, int]], at: int) -> int:
    return sum(1 for start, end in intervals if start <= at < end)


def peak(intervals: list[tuple[int, int]], begin: int, end: int) -> int:
    """The greatest number of simultaneous participants in ``[begin, end)``."""
    instants = {begin} | {edge for interval in intervals for edge in interval if begin <= edge < end}
    return max(level_at(intervals, at) for at in instants)
