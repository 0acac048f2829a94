"""Request and answer of `POST /v1/tokens`."""

from typing import Annotated, Literal

from msgspec import Meta

from services.api.tokens.room_config import RoomConfig
from shared.models.names import Identity, RoomName, Timestamp
from shared.models.wire import Request, Wire

DEFAULT_TTL_S = 3600
MAX_TTL_S = 21600
# LiveKit's own limit on metadata and on attributes (livekit-server, config.go: max_metadata_size, max_attributes_size).
MAX_METADATA_BYTES = 64_000

Source = Literal["camera", "microphone", "screen_share", "screen_share_audio"]

# LiveKit treats an empty list as "all sources", which a client hardly means. Relay refuses it.
SourcesToPublish = Annotated[
    list[Source],
    Meta(
        min_length=1,
        description="Only these sources may be published. Not empty: to allow none, set `canPublish` to false.",
        examples=[["microphone"]],
    ),
]
ParticipantName = Annotated[
    str, Meta(max_length=256, description="Display name, visible to the other participants.", examples=["Ada"])
]
Ttl = Annotated[
    int,
    Meta(
        ge=1,
        description="Seconds in which the token can be used to join. Relay lowers more than 21600 (six hours) to 21600.",
        extra_json_schema={"default": DEFAULT_TTL_S},
        examples=[600],
    ),
]
Metadata = Annotated[
    str,
    Meta(
        max_length=MAX_METADATA_BYTES,
        description="Opaque text, visible to everyone in the room. At most 64,000 bytes in UTF-8.",
    ),
]
Attributes = Annotated[
    dict[str, str],
    Meta(
        description="Key-value pairs, visible to everyone in the room. At most 64,000 bytes in UTF-8, keys included.",
        examples=[{"role": "host"}],
    ),
]


class Grants(Request):
    """What the participant may do in the room."""

    can_publish: Annotated[bool, Meta(description="Publish audio and video.")] = True
    can_subscribe: Annotated[bool, Meta(description="Receive what others publish.")] = True
    can_publish_data: Annotated[bool, Meta(description="Send data messages.")] = True
    can_publish_sources: SourcesToPublish | None = None
    can_update_own_metadata: (
        Annotated[bool, Meta(description="Change their own name, metadata and attributes.")] | None
    ) = None
    hidden: Annotated[bool, Meta(description="Invisible to other participants. Still metered.")] | None = None


class TokenRequest(Request):
    """The participant, the room and the rights of a token."""

    room: RoomName
    identity: Identity
    name: ParticipantName | None = None
    ttl: Ttl | None = None
    metadata: Metadata | None = None
    attributes: Attributes | None = None
    grants: Annotated[Grants | None, Meta(description="What the participant may do in the room.")] = None
    room_config: Annotated[
        RoomConfig | None, Meta(description="Configuration of the room, applied if joining creates it.")
    ] = None


class TokenAnswer(Wire):
    """A LiveKit access token and the address to use it with."""

    token: Annotated[str, Meta(description="JWT for LiveKit's client SDKs.", examples=["eyJhbGciOiJIUzI1NiIs…"])]
    url: Annotated[str, Meta(description="LiveKit's address.", examples=["wss://livekit.example.com"])]
    room: Annotated[str, Meta(description="LiveKit's own name of the room.", examples=["p_k3v9x2m7q4w8t6na__lobby"])]
    identity: Identity
    expires_at: Annotated[Timestamp, Meta(description="When the token expires.")]
