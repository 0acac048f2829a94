"""Parameters and answers of `GET /v1/sessions`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from services.api.http.cursors import NextCursor
from services.api.http.query import ExactName, TimeRangeQuery
from services.api.usage.schemas import Minutes, ScreenShareMinutes
from shared.models.names import Timestamp
from shared.models.usage.listings import SessionStatus
from shared.models.wire import Wire

Sid = Annotated[str, Meta(max_length=512, description="LiveKit's participant sid.", examples=["PA_k3v9x2m7q4w8"])]
RoomOfProject = Annotated[str | None, Meta(description="Name of the room in this project.")]
RoomSid = Annotated[str | None, Meta(description="LiveKit's sid of the room.")]
IdentityOfSession = Annotated[str | None, Meta(description="Participant identity.")]


class SessionsQuery(TimeRangeQuery):
    """The parameters of `GET /v1/sessions`."""

    room: ExactName | None = None
    identity: ExactName | None = None
    kind: ExactName | None = None
    status: Annotated[SessionStatus, Meta(description="Open or ended sessions. Default: both.")] | None = None


class TrackOfSession(Wire):
    """A published track, as far as LiveKit's events report it."""

    sid: Annotated[str, Meta(description="LiveKit's track sid.")]
    type: Annotated[str, Meta(description="Type of the track: `audio`, `video` or `data`.")]
    source: Annotated[str, Meta(description="Source of the track, such as `camera` or `microphone`.")]
    published_at: (
        Annotated[Timestamp, Meta(description="When the track was published. Null if no event reported it.")] | None
    )
    unpublished_at: (
        Annotated[
            Timestamp,
            Meta(description="When the track was unpublished. Null if no event reported it: it ends with the session."),
        ]
        | None
    )


class ListedSession(Minutes):
    """The session of one participant sid. A reconnect is a new session."""

    sid: Annotated[str, Meta(description="LiveKit's participant sid.")]
    room: RoomOfProject
    room_sid: RoomSid
    identity: IdentityOfSession
    name: Annotated[str | None, Meta(description="Display name of the participant.")]
    kind: Annotated[str, Meta(description="Kind of participant, such as `standard`, `agent`, `sip` or `egress`.")]
    started_at: Annotated[Timestamp, Meta(description="When the session began.")]
    ended_at: Annotated[Timestamp, Meta(description="When the session ended. Null while it is open.")] | None
    ended_by: Annotated[
        str | None,
        Meta(description="What reported the end: `left`, `aborted`, `room_finished` or `reconciled`."),
    ]
    disconnect_reason: Annotated[str | None, Meta(description="LiveKit's reason for the disconnect.")]
    counted_until: Annotated[Timestamp, Meta(description="Time up to which the session is metered.")]
    completeness: Annotated[
        Literal["observed", "inferred", "provisional"],
        Meta(
            description="`observed`: an event reported the end. `inferred`: no event did. `provisional`: still open,"
            " counted up to `countedUntil`."
        ),
    ]
    screen_share_minutes: ScreenShareMinutes
    tracks: (
        Annotated[list[TrackOfSession], Meta(description="Tracks that the participant published. One session only.")]
        | UnsetType
    ) = UNSET


class SessionsAnswer(Wire):
    """A page of sessions."""

    sessions: Annotated[list[ListedSession], Meta(description="Sessions of this page, newest start first.")]
    next_cursor: NextCursor | None
