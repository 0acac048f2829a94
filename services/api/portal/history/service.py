"""Compute the timeline of a session."""

from datetime import datetime
from typing import NamedTuple

from services.api.sessions.schemas import ListedSession


class Lane(NamedTuple):
    """A bar of the timeline. ``x`` and ``width`` are in per cent."""

    name: str
    detail: str
    tone: str
    x: float
    width: float


def lanes_of(session: ListedSession) -> list[Lane]:
    """Return the bars of a timeline: the session, then its tracks."""
    start, end = _ms(session.started_at), max(_ms(session.counted_until), _ms(session.started_at) + 1)

    def scale(at: int) -> float:
        return round(100 * min(max((at - start) / (end - start), 0), 1), 3)

    lanes = [Lane("Connected", f"{session.participant_minutes} minutes", "peak", 0, 100)]
    for track in session.tracks or ():
        begins = start if track.published_at is None else _ms(track.published_at)
        ends = end if track.unpublished_at is None else _ms(track.unpublished_at)
        x = scale(begins)
        # A track without a source, such as an agent's, is named by its type.
        name = (track.type if track.source == "UNKNOWN" else track.source).capitalize().replace("_", " ")
        tone = "video" if track.type == "VIDEO" else "audio"
        lanes.append(Lane(name, track.sid, tone, x, max(scale(ends) - x, 0.4)))
    return lanes


def _ms(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000)
