"""Filters and rows of the lists of sessions and events. Times are unix ms unless they are datetimes."""

from datetime import datetime
from typing import Literal, NamedTuple

from shared.metering.state import Session

SessionStatus = Literal["open", "ended"]


class SessionFilter(NamedTuple):
    """Sessions that began in ``[from_ms, to_ms)`` and match every field that is set."""

    room: str | None = None
    identity: str | None = None
    kind: str | None = None
    status: SessionStatus | None = None
    from_ms: int | None = None
    to_ms: int | None = None


class SessionRecord(NamedTuple):
    """A session and the columns derived from its state. ``confirmed_ms``: when LiveKit last listed it."""

    session: Session
    kind: str
    started_ms: int
    ended_ms: int | None
    ended_by: str | None
    confirmed_ms: int | None


class SessionPage(NamedTuple):
    """A page of sessions. ``next_key``: (start, sid) after which the next page begins; None on the last."""

    rows: list[SessionRecord]
    next_key: tuple[int, str] | None


class EventFilter(NamedTuple):
    """Events that LiveKit created in ``[from_ms, to_ms)`` and that match every field that is set.

    ``session`` is a participant sid.
    """

    event: str | None = None
    room: str | None = None
    identity: str | None = None
    session: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


class EventRecord(NamedTuple):
    """An event as it was received. ``created_at`` is LiveKit's time, ``received_at`` Relay's."""

    created_at: datetime
    id: str
    received_at: datetime
    name: str
    room: str | None
    room_sid: str | None
    participant_sid: str | None
    identity: str | None
    body: bytes


class EventPage(NamedTuple):
    """A page of events. ``next_key``: (creation time, id) before the next page; None on the last page."""

    rows: list[EventRecord]
    next_key: tuple[int, str] | None
