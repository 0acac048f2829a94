"""Rooms and participants: what clients ask for and what they are answered. Room names are the project's own."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from shared.errors import InvalidRequest
from shared.models.names import RoomName, Timestamp
from shared.models.wire import Request, Wire

MAX_ROOM_METADATA = 4096
# LiveKit's own default limits are 64 KiB for attributes and 512 KiB for metadata; a token holds no more than this either.
MAX_METADATA_BYTES = 64_000
# What LiveKit's clients take in one reliable packet.
MAX_DATA_BYTES = 15 * 1024
MAX_DESTINATIONS = 500

Source = Literal["camera", "microphone", "screen_share", "screen_share_audio"]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
RoomMetadata = Annotated[str, Meta(max_length=MAX_ROOM_METADATA)]
Kind = Literal["standard", "agent", "sip", "ingress", "egress", "connector", "bridge", "unknown"]
State = Literal["joining", "joined", "active", "disconnected", "unknown"]
TrackType = Literal["audio", "video", "data", "unknown"]
TrackSource = Literal["camera", "microphone", "screen_share", "screen_share_audio", "unknown"]


class CreateRoom(Request):
    """``empty_timeout``: seconds an open room waits for its first participant; ``departure_timeout``: seconds it stays after
    its last one. What is not given is LiveKit's default."""

    name: RoomName
    max_participants: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    empty_timeout: Seconds | None = None
    departure_timeout: Seconds | None = None
    metadata: RoomMetadata | None = None


class UpdateRoom(Request):
    """An empty ``metadata`` clears it."""

    metadata: RoomMetadata


class PermissionChange(Request):
    """What is not given stays as it is. ``can_publish_sources`` null: every source again."""

    can_publish: bool | UnsetType = UNSET
    can_subscribe: bool | UnsetType = UNSET
    can_publish_data: bool | UnsetType = UNSET
    can_publish_sources: Annotated[list[Source], Meta(min_length=1)] | UnsetType | None = UNSET
    can_update_own_metadata: bool | UnsetType = UNSET
    hidden: bool | UnsetType = UNSET


class UpdateParticipant(Request):
    """What is not given stays as it is. LiveKit cannot empty a name or metadata; an attribute with an empty value is
    deleted."""

    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    metadata: Annotated[str, Meta(min_length=1)] | None = None
    attributes: dict[str, str] | None = None
    permission: PermissionChange | None = None


class MuteTracks(Request):
    """One track, those of one source or, with neither, all audio and video."""

    track_sid: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    source: Source | None = None
    muted: bool = True


class SendData(Request):
    """``destination_identities`` not given: to everyone in the room. ``lossy`` packets may be lost and overtake each other."""

    data: Annotated[str, Meta(max_length=MAX_DATA_BYTES * 2)]
    encoding: Literal["utf8", "base64"] = "utf8"
    kind: Literal["reliable", "lossy"] = "reliable"
    topic: Annotated[str, Meta(max_length=256)] | None = None
    destination_identities: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(min_length=1, max_length=MAX_DESTINATIONS)
        ]
        | None
    ) = None


class TrackAnswer(Wire):
    """``width`` and ``height`` in pixels, 0 for audio."""

    sid: str
    type: TrackType
    source: TrackSource
    name: str
    muted: bool
    mime_type: str
    width: int
    height: int
    simulcast: bool


class PermissionAnswer(Wire):
    """``can_publish_sources`` empty: every source."""

    can_publish: bool
    can_subscribe: bool
    can_publish_data: bool
    can_publish_sources: list[TrackSource]
    can_update_own_metadata: bool
    hidden: bool


class ParticipantAnswer(Wire):
    """``kind`` tells people (standard) from agents, phones (sip), streams (ingress) and recorders (egress)."""

    identity: str
    sid: str
    name: str
    kind: Kind
    state: State
    metadata: str
    attributes: dict[str, str]
    joined_at: Timestamp
    is_publisher: bool
    permission: PermissionAnswer
    tracks: list[TrackAnswer]


class RoomAnswer(Wire):
    """``num_participants`` is LiveKit's count, which can lag; 0 for ``max_participants`` is no limit; time-outs are seconds."""

    room: str
    sid: str
    num_participants: int
    num_publishers: int
    max_participants: int
    empty_timeout: int
    departure_timeout: int
    metadata: str
    created_at: Timestamp
    active_recording: bool


class RoomDetails(RoomAnswer):
    """``num_participants`` is counted from ``participants``: everyone but recorders."""

    participants: list[ParticipantAnswer]


class RoomPage(Wire):
    """By name. ``next_cursor`` is there while more follow."""

    rooms: list[RoomAnswer]
    next_cursor: str | UnsetType = UNSET


class ParticipantPage(Wire):
    """By identity. ``next_cursor`` is there while more follow."""

    participants: list[ParticipantAnswer]
    next_cursor: str | UnsetType = UNSET


class MutedTracks(Wire):
    tracks: list[TrackAnswer]


def check_size(param: str, size: int) -> None:
    """``size`` in bytes. Raises ``InvalidRequest``."""
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(f"{param} is {size} bytes long; LiveKit takes {MAX_METADATA_BYTES}", param)
