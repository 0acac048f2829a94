"""Parameters and answer of `GET /v1/events`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from services.api.http.cursors import NextCursor
from services.api.http.query import ExactName, TimeRangeQuery
from services.api.sessions.schemas import IdentityOfSession, RoomOfProject, RoomSid
from shared.models.names import Timestamp
from shared.models.wire import Wire


class EventsQuery(TimeRangeQuery):
    """The parameters of `GET /v1/events`."""

    event: ExactName | None = None
    room: ExactName | None = None
    identity: ExactName | None = None
    session: ExactName | None = None


class ListedEvent(Wire):
    """An event that LiveKit sent."""

    id: Annotated[str, Meta(description="LiveKit's id of the event.")]
    event: Annotated[str, Meta(description="LiveKit's name of the event, such as `participant_joined`.")]
    created_at: Annotated[Timestamp, Meta(description="When LiveKit created the event.")]
    received_at: Annotated[Timestamp, Meta(description="When Relay received the event.")]
    room: RoomOfProject
    room_sid: RoomSid
    session: Annotated[str | None, Meta(description="Participant sid of the session that the event concerns.")]
    identity: IdentityOfSession
    payload: Annotated[msgspec.Raw | None, Meta(description="Body of the webhook, as LiveKit sent it.")]


class EventsAnswer(Wire):
    """A page of events."""

    events: Annotated[
        list[ListedEvent], Meta(description="Events of this page, newest first by the time LiveKit created them.")
    ]
    next_cursor: NextCursor | None
