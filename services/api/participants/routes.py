"""Manage the participants of a room: `/v1/rooms/{name}/participants`."""

from typing import Final

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from services.api.http.openapi import described
from services.api.participants.schemas import (
    MutedTracks,
    MuteTracks,
    ParticipantAnswer,
    ParticipantPage,
    UpdateParticipant,
)
from services.api.rooms.dependencies import ROOM_DEPENDENCIES, ROOM_ERRORS, RoomInPath
from services.api.rooms.paths import read_names
from services.api.rooms.schemas import PageQuery
from services.api.rooms.service import ProjectRooms
from shared.models.names import ExistingIdentity

IdentityInPath = FromPath[ExistingIdentity]
PARTICIPANT_ERRORS: Final = (*ROOM_ERRORS, "participant_not_found")


class ParticipantsController(Controller):
    path = "/rooms/{name:str}/participants"
    guards = (read_names,)
    dependencies = ROOM_DEPENDENCIES
    tags = ("participants",)

    @get(
        operation_id="listParticipants",
        summary="List a room's participants",
        description=(
            "By identity, with hidden participants, agents and recorders. Without `limit` the answer has all of them."
        ),
        opt=described(errors=(*ROOM_ERRORS, "invalid_cursor")),
    )
    async def list_participants(
        self, rooms: NamedDependency[ProjectRooms], name: RoomInPath, params: NamedDependency[PageQuery]
    ) -> ParticipantPage:
        return await rooms.participants(name, params.limit, params.cursor)

    @get(
        "/{identity:str}",
        operation_id="getParticipant",
        summary="Get a participant",
        opt=described(errors=PARTICIPANT_ERRORS),
    )
    async def get_participant(
        self, rooms: NamedDependency[ProjectRooms], name: RoomInPath, identity: IdentityInPath
    ) -> ParticipantAnswer:
        return await rooms.participant(name, identity)

    @patch(
        "/{identity:str}",
        operation_id="updateParticipant",
        summary="Change a participant",
        opt=described(
            errors=(*PARTICIPANT_ERRORS, "livekit_conflict"),
            at_least_one=True,
            example={"name": "Ada", "permission": {"canPublish": False}},
        ),
    )
    async def update_participant(
        self,
        rooms: NamedDependency[ProjectRooms],
        name: RoomInPath,
        identity: IdentityInPath,
        data: JSONBody[UpdateParticipant],
    ) -> ParticipantAnswer:
        return await rooms.update_participant(name, identity, data)

    @delete(
        "/{identity:str}",
        operation_id="removeParticipant",
        summary="Remove a participant",
        description=(
            "Disconnects the participant. With a valid token they can join again. The project's audit log records it."
        ),
        opt=described(errors=PARTICIPANT_ERRORS),
    )
    async def remove_participant(
        self, rooms: NamedDependency[ProjectRooms], name: RoomInPath, identity: IdentityInPath
    ) -> None:
        await rooms.remove(name, identity)

    @post(
        "/{identity:str}/mute",
        operation_id="muteParticipant",
        status_code=200,
        summary="Mute a participant's tracks",
        opt=described(
            errors=(*PARTICIPANT_ERRORS, "track_not_found", "livekit_conflict"), example={"source": "microphone"}
        ),
    )
    async def mute(
        self,
        rooms: NamedDependency[ProjectRooms],
        name: RoomInPath,
        identity: IdentityInPath,
        data: JSONBody[MuteTracks],
    ) -> MutedTracks:
        return await rooms.mute(name, identity, data)
