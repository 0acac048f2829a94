"""The current state of a project."""

from typing import NamedTuple


class LiveRoom(NamedTuple):
    """An open room. ``since_ms``: when the participant who is connected longest joined (unix ms)."""

    room: str
    people: int
    with_video: int
    since_ms: int


class LiveNow(NamedTuple):
    """Connected participants, rooms with at least one, and the fullest rooms."""

    people: int
    rooms: int
    busiest: list[LiveRoom]


class Webhooks(NamedTuple):
    """Receipt of the newest event (unix ms) of the project and of the instance.

    ``recent``: number of the project's events in the last five minutes.
    """

    last_ms: int | None
    instance_last_ms: int | None
    recent: int
