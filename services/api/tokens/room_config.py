"""LiveKit's RoomConfiguration as a client writes it: protobuf's JSON form, field by field, so that a mistake is named.

A test holds the fields against livekit-api's protobuf. Recordings (``egress``) are known, to be refused with the reason.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from shared.models.wire import Request

_UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# The limits of `POST /v1/rooms`: a room that waits for a century is nobody's wish. 0 is LiveKit's default.
_Seconds = Annotated[int, Meta(ge=0, le=86_400)]


class AgentDispatch(Request, omit_defaults=True):
    """An agent to be sent into the room."""

    agent_name: Annotated[str, Meta(examples=["scribe"])] | None = None
    metadata: str | None = None
    attributes: dict[str, str] | None = None
    deployment: str | None = None
    restart_policy: Literal["JRP_ON_FAILURE", "JRP_NEVER"] | None = None


class RoomConfig(Request, omit_defaults=True):
    """LiveKit's RoomConfiguration, applied when joining creates the room. Time-outs in seconds, delays in milliseconds."""

    name: Annotated[str, Meta(description="Of a configuration that LiveKit knows.")] | None = None
    empty_timeout: _Seconds | None = None
    departure_timeout: _Seconds | None = None
    max_participants: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    metadata: str | None = None
    min_playout_delay: _UInt32 | None = None
    max_playout_delay: _UInt32 | None = None
    sync_streams: bool | None = None
    agents: list[AgentDispatch] | None = None
    tags: dict[str, str] | None = None
    egress: (
        Annotated[dict[str, Any], Meta(description="Refused: it would record into storage that projects share.")] | None
    ) = None
