"""Stored rows in the form in which an audit compares them."""

from typing import NamedTuple

from shared.metering.peak import Stretch
from shared.metering.state import MediaRun, Room, Session


class StoredSession(NamedTuple):
    """A session's row. ``columns``: the stored derived columns by name.

    ``room``: the room its end may depend on.
    """

    state: Session
    columns: dict[str, object]
    room: Room | None


class StoredRoom(NamedTuple):
    """A room's row. ``followed_ms``: creation (unix ms) of the next stored room with the same name."""

    state: Room
    followed_ms: int | None


class StoredRun(NamedTuple):
    """An egress or a run of an ingress. ``columns``: the stored derived columns by name."""

    state: MediaRun
    columns: dict[str, object]


class KeptEvent(NamedTuple):
    """A stored event. ``sid``: the participant, room or event id that orders the stream."""

    sid: str
    received_ms: int
    body: bytes


class StoredStretch(NamedTuple):
    """A row of `concurrency`.

    ``seconds``: for a minute, (start in unix ms, change, peak) of each stored second; None if none are stored.
    """

    start_ms: int
    stretch: Stretch
    seconds: list[tuple[int | None, int | None, int | None]] | None
