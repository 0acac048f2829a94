"""Requests and answers of `/v1/rooms/{name}/participants`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from services.api.http.cursors import NextCursor
from shared.models.names import Timestamp
from shared.models.wire import Request, Wire

Source = Literal["camera", "microphone", "screen_share", "screen_share_audio"]
TrackSource = Literal["camera", "microphone", "screen_share", "screen_share_audio", "unknown"]
TrackType = Literal["audio", "video", "data", "unknown"]
Kind = Literal["standard", "agent", "sip", "ingress", "egress", "connector", "bridge", "unknown"]
State = Literal["joining", "joined", "active", "disconnected", "unknown"]

# These grants have the same description in requests and answers.
CanPublish = Annotated[bool, Meta(description="Publish audio and video.")]
CanSubscribe = Annotated[bool, Meta(description="Receive what others publish.")]
CanPublishData = Annotated[bool, Meta(description="Send data messages.")]
CanUpdateOwnMetadata = Annotated[bool, Meta(description="Change their own name, metadata and attributes.")]
Hidden = Annotated[bool, Meta(description="Invisible to other participants.")]
SourcesToPublish = Annotated[
    list[Source],
    Meta(min_length=1, description="Only these sources may be published. Null allows all sources again."),
]


class PermissionChange(Request):
    """The grants to change. An absent grant stays as it is."""

    can_publish: CanPublish | UnsetType = UNSET
    can_subscribe: CanSubscribe | UnsetType = UNSET
    can_publish_data: CanPublishData | UnsetType = UNSET
    can_publish_sources: SourcesToPublish | UnsetType | None = UNSET
    can_update_own_metadata: CanUpdateOwnMetadata | UnsetType = UNSET
    hidden: Hidden | UnsetType = UNSET


class UpdateParticipant(Request):
    """The fields to change. An absent field stays as it is."""

    name: (
        Annotated[str, Meta(min_length=1, max_length=256, description="New display name. LiveKit cannot clear it.")]
        | None
    ) = None
    metadata: (
        Annotated[str, Meta(min_length=1, description="New metadata, at most 64,000 bytes. LiveKit cannot clear it.")]
        | None
    ) = None
    attributes: (
        Annotated[
            dict[str, str],
            Meta(description="Attributes to set, at most 64,000 bytes. An empty value deletes the attribute."),
        ]
        | None
    ) = None
    permission: Annotated[PermissionChange | None, Meta(description="Grants to change.")] = None


class MuteTracks(Request):
    """One track, the tracks of one source or, with neither, all audio and video tracks."""

    track_sid: Annotated[str, Meta(min_length=1, max_length=128, description="Sid of the track to mute.")] | None = None
    source: Annotated[Source | None, Meta(description="Mute all tracks of this source.")] = None
    muted: Annotated[bool, Meta(description="False unmutes, if LiveKit's configuration allows it.")] = True


class TrackAnswer(Wire):
    """A published track."""

    sid: Annotated[str, Meta(description="LiveKit's track sid.")]
    type: Annotated[TrackType, Meta(description="Type of the track.")]
    source: Annotated[TrackSource, Meta(description="Source of the track.")]
    name: Annotated[str, Meta(description="Name of the track.")]
    muted: Annotated[bool, Meta(description="Whether the track is muted.")]
    mime_type: Annotated[str, Meta(description="MIME type of the codec.", examples=["video/VP8"])]
    width: Annotated[int, Meta(description="Width in pixels. 0 for audio.")]
    height: Annotated[int, Meta(description="Height in pixels. 0 for audio.")]
    simulcast: Annotated[bool, Meta(description="Whether the track is published in several qualities.")]


class PermissionAnswer(Wire):
    """What a participant may do."""

    can_publish: CanPublish
    can_subscribe: CanSubscribe
    can_publish_data: CanPublishData
    can_publish_sources: Annotated[
        list[TrackSource], Meta(description="Only these sources may be published. Empty: all sources.")
    ]
    can_update_own_metadata: CanUpdateOwnMetadata
    hidden: Hidden


class ParticipantAnswer(Wire):
    """A participant of an open room."""

    identity: Annotated[str, Meta(description="Participant identity.")]
    sid: Annotated[str, Meta(description="LiveKit's participant sid. A reconnect gets a new one.")]
    name: Annotated[str, Meta(description="Display name.")]
    kind: Annotated[
        Kind,
        Meta(
            description="Kind of participant: a person (`standard`), an agent, a phone (`sip`), an incoming stream"
            " (`ingress`) or a recorder (`egress`)."
        ),
    ]
    state: Annotated[State, Meta(description="Connection state: joining, joined, active or disconnected.")]
    metadata: Annotated[str, Meta(description="Opaque text, visible to everyone in the room.")]
    attributes: Annotated[dict[str, str], Meta(description="Key-value pairs, visible to everyone in the room.")]
    joined_at: Annotated[Timestamp, Meta(description="When the participant joined.")]
    is_publisher: Annotated[bool, Meta(description="Whether the participant publishes tracks.")]
    permission: Annotated[PermissionAnswer, Meta(description="What the participant may do.")]
    tracks: Annotated[list[TrackAnswer], Meta(description="Published tracks.")]


class ParticipantPage(Wire):
    """A page of participants."""

    participants: Annotated[list[ParticipantAnswer], Meta(description="Participants of this page, by identity.")]
    next_cursor: NextCursor | UnsetType = UNSET


class MutedTracks(Wire):
    """The tracks that changed."""

    tracks: Annotated[list[TrackAnswer], Meta(description="Tracks that were muted or unmuted.")]
