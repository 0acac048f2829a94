"""LiveKit's RoomConfiguration in protobuf's JSON form, as a request struct.

The struct lets an error name the wrong field. A test compares its fields with livekit-api's protobuf.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from shared.models.wire import Request

# The limits of `POST /v1/rooms`. 0 is LiveKit's default.
_MAX_SECONDS = 86_400
_MAX_UINT32 = 2**32 - 1


class AgentDispatch(Request, omit_defaults=True):
    """An agent that LiveKit sends into the room."""

    agent_name: Annotated[str, Meta(description="Name of the agent.", examples=["scribe"])] | None = None
    metadata: Annotated[str, Meta(description="Opaque text, passed to the agent.")] | None = None
    attributes: Annotated[dict[str, str], Meta(description="Key-value pairs of the agent's participant.")] | None = None
    deployment: Annotated[str, Meta(description="Deployment of the agent.")] | None = None
    restart_policy: Annotated[
        Literal["JRP_ON_FAILURE", "JRP_NEVER"] | None,
        Meta(description="Whether LiveKit sends the agent again after a failure."),
    ] = None


class RoomConfig(Request, omit_defaults=True):
    """LiveKit's RoomConfiguration, applied if joining creates the room."""

    name: Annotated[str, Meta(description="Name of a room configuration stored in LiveKit.")] | None = None
    empty_timeout: (
        Annotated[
            int, Meta(ge=0, le=_MAX_SECONDS, description="Seconds the room stays open until a participant joins.")
        ]
        | None
    ) = None
    departure_timeout: (
        Annotated[
            int, Meta(ge=0, le=_MAX_SECONDS, description="Seconds the room stays open after the last participant left.")
        ]
        | None
    ) = None
    max_participants: (
        Annotated[
            int, Meta(ge=0, le=10_000, description="Most participants connected at once. 0 means LiveKit's default.")
        ]
        | None
    ) = None
    metadata: Annotated[str, Meta(description="Opaque text, visible to everyone in the room.")] | None = None
    min_playout_delay: (
        Annotated[int, Meta(ge=0, le=_MAX_UINT32, description="Minimum playout delay in milliseconds.")] | None
    ) = None
    max_playout_delay: (
        Annotated[int, Meta(ge=0, le=_MAX_UINT32, description="Maximum playout delay in milliseconds.")] | None
    ) = None
    sync_streams: Annotated[bool, Meta(description="Keep the tracks of a participant in sync.")] | None = None
    agents: Annotated[list[AgentDispatch], Meta(description="Agents that LiveKit sends into the room.")] | None = None
    tags: Annotated[dict[str, str], Meta(description="Key-value pairs of the room.")] | None = None
    egress: (
        Annotated[
            dict[str, Any],
            Meta(description="Not allowed: it would record into storage that all projects share."),
        ]
        | None
    ) = None
