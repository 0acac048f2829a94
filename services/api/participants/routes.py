"""`/v1/rooms/{name}/participants`: who is in a room of the key's project and mode."""

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from services.api.http.openapi import described
from services.api.rooms.paths import read_names
from services.api.rooms.routes import OF_ROOM, ROOMS, Name, RoomPageQuery
from services.api.rooms.schemas import MutedTracks, MuteTracks, ParticipantAnswer, ParticipantPage, UpdateParticipant
from services.api.rooms.service import ProjectRooms
from shared.models.names import ExistingIdentity

Identity = FromPath[ExistingIdentity]
OF_PARTICIPANT = (*OF_ROOM, "participant_not_found")


class ParticipantsController(Controller):
    path = "/rooms/{name:str}/participants"
    guards = (read_names,)
    dependencies = ROOMS
    tags = ("participants",)

    @get(
        operation_id="listParticipants",
        summary="List a room's participants",
        opt=described(errors=(*OF_ROOM, "invalid_cursor")),
    )
    async def list_participants(
        self,
        rooms: NamedDependency[ProjectRooms],
        name: Name,
        params: NamedDependency[RoomPageQuery],
    ) -> ParticipantPage:
        """By identity; all of them without `limit`. Hidden ones, agents and recorders too."""
        return await rooms.participants(name, params.limit, params.cursor)

    @get(
        "/{identity:str}",
        operation_id="getParticipant",
        summary="One participant",
        opt=described(errors=OF_PARTICIPANT),
    )
    async def get_participant(
        self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity
    ) -> ParticipantAnswer:
        return await rooms.participant(name, identity)

    @patch(
        "/{identity:str}",
        operation_id="updateParticipant",
        summary="Change a participant",
        opt=described(
            errors=(*OF_PARTICIPANT, "livekit_conflict"),
            at_least_one=True,
            example={"name": "Ada", "permission": {"canPublish": False}},
        ),
    )
    async def update_participant(
        self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity, data: JSONBody[UpdateParticipant]
    ) -> ParticipantAnswer:
        return await rooms.update_participant(name, identity, data)

    @delete(
        "/{identity:str}",
        operation_id="removeParticipant",
        summary="Remove a participant",
        opt=described(errors=OF_PARTICIPANT),
    )
    async def remove_participant(self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity) -> None:
        """Disconnects them. A token that is still valid lets them come back. Recorded in the project's audit log."""
        await rooms.remove(name, identity)

    @post(
        "/{identity:str}/mute",
        operation_id="muteParticipant",
        status_code=200,
        summary="Mute a participant's tracks",
        opt=described(
            errors=(*OF_PARTICIPANT, "track_not_found", "livekit_conflict"), example={"source": "microphone"}
        ),
    )
    async def mute(
        self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity, data: JSONBody[MuteTracks]
    ) -> MutedTracks:
        return await rooms.mute(name, identity, data)
