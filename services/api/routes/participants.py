"""`/v1/rooms/{name}/participants`: who is in a room of the key's project and mode."""

from types import MappingProxyType
from typing import Annotated

from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody, PathParameter

from services.api.rooms import ProjectRooms
from services.api.routes.rooms import Cursor, Limit, Name, project_rooms, refuse_hidden_slashes
from shared.models.rooms import MutedTracks, MuteTracks, ParticipantAnswer, ParticipantPage, UpdateParticipant

# Wider than what tokens are minted for: agents, phones and streams bring identities of their own.
Identity = Annotated[str, PathParameter(min_length=1, max_length=256)]


class ParticipantsController(Controller):
    path = "/v1/rooms/{name:str}/participants"
    guards = (refuse_hidden_slashes,)
    dependencies = MappingProxyType({"rooms": Provide(project_rooms)})
    tags = ("Participants",)

    @get(summary="List a room's participants")
    async def list_participants(
        self,
        rooms: NamedDependency[ProjectRooms],
        name: Name,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> ParticipantPage:
        """By identity; all of them without `limit`. Hidden ones, agents and recorders too."""
        return await rooms.participants(name, limit, cursor)

    @get("/{identity:str}", summary="One participant")
    async def get_participant(
        self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity
    ) -> ParticipantAnswer:
        return await rooms.participant(name, identity)

    @patch("/{identity:str}", summary="Change a participant")
    async def update_participant(
        self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity, data: JSONBody[UpdateParticipant]
    ) -> ParticipantAnswer:
        return await rooms.update_participant(name, identity, data)

    @delete("/{identity:str}", summary="Remove a participant")
    async def remove_participant(self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity) -> None:
        """Disconnects them. A token that is still valid lets them come back."""
        await rooms.remove(name, identity)

    @post("/{identity:str}/mute", status_code=200, summary="Mute a participant's tracks")
    async def mute(
        self, rooms: NamedDependency[ProjectRooms], name: Name, identity: Identity, data: JSONBody[MuteTracks]
    ) -> MutedTracks:
        return await rooms.mute(name, identity, data)
