"""The answers of `GET /v1/sessions` and `GET /v1/events`."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from services.api.usage.schemas import Minutes
from shared.models.names import Timestamp
from shared.models.wire import Wire

Completeness = Literal["observed", "inferred", "provisional"]


class TrackOfSession(Wire):
    """A track as far as events told of it. ``unpublished_at`` is null while it runs, and where it ended with its session."""

    sid: str
    type: str
    source: str
    published_at: Timestamp | None
    unpublished_at: Timestamp | None


class ListedSession(Minutes):
    """One participant sid. ``completeness``: whether an event told of its end, none did, or it is still open, and counted up
    to ``counted_until``."""

    sid: str
    room: str | None
    room_sid: str | None
    identity: str | None
    name: str | None
    kind: str
    started_at: Timestamp
    ended_at: Timestamp | None
    ended_by: str | None
    disconnect_reason: str | None
    counted_until: Timestamp
    completeness: Completeness
    screen_share_minutes: float
    tracks: list[TrackOfSession] | UnsetType = UNSET


class SessionsAnswer(Wire):
    """Those that began last come first. ``next_cursor`` is null on the last page."""

    sessions: list[ListedSession]
    next_cursor: str | None


class ListedEvent(Wire):
    """An event as LiveKit sent it (``payload``). ``session`` is the participant sid it is about."""

    id: str
    event: str
    created_at: Timestamp
    received_at: Timestamp
    room: str | None
    room_sid: str | None
    session: str | None
    identity: str | None
    payload: msgspec.Raw | None


class EventsAnswer(Wire):
    """Those that LiveKit created last come first. ``next_cursor`` is null on the last page."""

    events: list[ListedEvent]
    next_cursor: str | None
