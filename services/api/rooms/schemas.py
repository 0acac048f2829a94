"""Requests and answers of `/v1/rooms`. Room names are the project's own."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from services.api.http.cursors import Cursor, NextCursor
from services.api.http.query import Query
from services.api.participants.schemas import ParticipantAnswer
from shared.models.names import RoomName, Timestamp
from shared.models.wire import Request, Wire

MAX_PAGE = 1000
MAX_ROOM_METADATA = 4096
# The largest reliable packet that LiveKit's clients accept.
MAX_DATA_BYTES = 15 * 1024
MAX_DESTINATIONS = 500

RoomMetadata = Annotated[
    str, Meta(max_length=MAX_ROOM_METADATA, description="Opaque text, visible to everyone in the room.")
]
MaxParticipants = Annotated[
    int, Meta(ge=1, le=10_000, description="Most participants connected at once. Default: LiveKit's.")
]
EmptyTimeout = Annotated[
    int,
    Meta(ge=1, le=86_400, description="Seconds the room stays open until a participant joins. Default: LiveKit's."),
]
DepartureTimeout = Annotated[
    int,
    Meta(
        ge=1, le=86_400, description="Seconds the room stays open after the last participant left. Default: LiveKit's."
    ),
]
Destinations = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=256)]],
    Meta(
        min_length=1,
        max_length=MAX_DESTINATIONS,
        description="Identities to send to. Without it the data goes to everyone in the room.",
    ),
]


class PageQuery(Query):
    """A page of rooms or participants."""

    limit: (
        Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Entries per page. Without it the answer has all of them.")]
        | None
    ) = None
    cursor: Cursor | None = None


class CreateRoom(Request):
    """The room to open."""

    name: RoomName
    max_participants: MaxParticipants | None = None
    empty_timeout: EmptyTimeout | None = None
    departure_timeout: DepartureTimeout | None = None
    metadata: RoomMetadata | None = None


class UpdateRoom(Request):
    """The new metadata of a room. Empty metadata clears it."""

    metadata: RoomMetadata


class SendData(Request):
    """Data to send into a room."""

    data: Annotated[str, Meta(max_length=MAX_DATA_BYTES * 2, description="The data, at most 15,360 bytes.")]
    encoding: Annotated[Literal["utf8", "base64"], Meta(description="Encoding of `data`.")] = "utf8"
    kind: Annotated[
        Literal["reliable", "lossy"], Meta(description="`lossy` packets may be lost or arrive out of order.")
    ] = "reliable"
    topic: Annotated[str, Meta(max_length=256, description="Topic by which clients recognise the data.")] | None = None
    destination_identities: Destinations | None = None


class RoomAnswer(Wire):
    """An open room."""

    room: Annotated[str, Meta(description="Name of the room in this project.")]
    sid: Annotated[str, Meta(description="LiveKit's sid of the room.")]
    num_participants: Annotated[
        int,
        Meta(
            description="Number of connected participants. LiveKit's count, which can lag; with `participants`, their"
            " number without recorders."
        ),
    ]
    num_publishers: Annotated[int, Meta(description="Number of participants that publish tracks.")]
    max_participants: Annotated[int, Meta(description="Most participants connected at once. 0 means no limit.")]
    empty_timeout: Annotated[int, Meta(description="Seconds the room stays open until a participant joins.")]
    departure_timeout: Annotated[int, Meta(description="Seconds the room stays open after the last participant left.")]
    metadata: Annotated[str, Meta(description="Opaque text, visible to everyone in the room.")]
    created_at: Annotated[Timestamp, Meta(description="When the room was created.")]
    active_recording: Annotated[bool, Meta(description="Whether the room is being recorded.")]


class RoomDetails(RoomAnswer):
    """An open room with its participants."""

    participants: Annotated[list[ParticipantAnswer], Meta(description="Connected participants, by identity.")]


class RoomPage(Wire):
    """A page of open rooms."""

    rooms: Annotated[list[RoomAnswer], Meta(description="Rooms of this page, by name.")]
    next_cursor: NextCursor | UnsetType = UNSET
