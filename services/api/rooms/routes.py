"""`/v1/rooms`: the rooms of the key's project and mode."""

from typing import Annotated, Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from services.api.context import Context
from services.api.http.cursors import Cursor
from services.api.http.idempotency import IDEMPOTENT, IDEMPOTENT_ERRORS, attempt_of, once
from services.api.http.openapi import described
from services.api.http.query import Query
from services.api.rooms.paths import read_names
from services.api.rooms.recorded_acts import RecordedActs
from services.api.rooms.schemas import CreateRoom, RoomAnswer, RoomDetails, RoomPage, SendData, UpdateRoom
from services.api.rooms.service import ProjectRooms
from shared.accounts.service import api_key
from shared.models.names import ExistingRoom
from shared.models.projects import KeyRecord

MAX_PAGE = 1000


class RoomPageQuery(Query):
    """A page of rooms or participants."""

    limit: (
        Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Entries a page. Without it the answer has all of them.")]
        | None
    ) = None
    cursor: Cursor | None = None


Name = FromPath[ExistingRoom]
# What every question to LiveKit can end in.
LIVEKIT = ("livekit_refused", "livekit_unreachable", "livekit_credentials", "livekit_failed", "livekit_timeout")
OF_ROOM = (*LIVEKIT, "room_not_found")


async def project_rooms(key: NamedDependency[KeyRecord], context: NamedDependency[Context]) -> ProjectRooms:
    acts = RecordedActs(context.pool, context.clock, api_key(key.key_id), key.project_id, key.mode)
    return ProjectRooms(context.livekit, acts)


ROOMS = {"rooms": Provide(project_rooms)}


class RoomsController(Controller):
    path = "/rooms"
    guards = (read_names,)
    dependencies = ROOMS
    tags = ("rooms",)

    @get(operation_id="listRooms", summary="List the open rooms", opt=described(errors=(*LIVEKIT, "invalid_cursor")))
    async def list_rooms(
        self, rooms: NamedDependency[ProjectRooms], params: NamedDependency[RoomPageQuery]
    ) -> RoomPage:
        """By name; all of them without `limit`."""
        return await rooms.open_rooms(params.limit, params.cursor)

    @post(
        operation_id="createRoom",
        summary="Open a room",
        opt=described(
            errors=(*LIVEKIT, "livekit_conflict", *IDEMPOTENT_ERRORS),
            example={"name": "lobby", "maxParticipants": 20},
            **IDEMPOTENT,
        ),
    )
    async def create_room(
        self,
        request: Request[Any, Any, Any],
        context: NamedDependency[Context],
        rooms: NamedDependency[ProjectRooms],
        data: JSONBody[CreateRoom],
    ) -> Response[RoomAnswer]:
        """A room of this name that is open already is answered as it is; nothing of it changes."""
        attempt = attempt_of(request, rooms.project_id, rooms.mode, data)
        return await once(context.pool, attempt, context.clock.now_ms(), lambda: rooms.create(data))

    @get("/{name:str}", operation_id="getRoom", summary="A room with its participants", opt=described(errors=OF_ROOM))
    async def get_room(self, rooms: NamedDependency[ProjectRooms], name: Name) -> RoomDetails:
        return await rooms.get(name)

    @patch(
        "/{name:str}",
        operation_id="updateRoom",
        summary="Change a room's metadata",
        opt=described(errors=OF_ROOM, example={"metadata": "chapter 2"}),
    )
    async def update_room(
        self, rooms: NamedDependency[ProjectRooms], name: Name, data: JSONBody[UpdateRoom]
    ) -> RoomAnswer:
        return await rooms.update(name, data)

    @delete("/{name:str}", operation_id="endRoom", summary="End a room", opt=described(errors=OF_ROOM))
    async def end_room(self, rooms: NamedDependency[ProjectRooms], name: Name) -> None:
        """Disconnects everyone in it. Recorded in the project's audit log."""
        await rooms.end(name)

    @post(
        "/{name:str}/data",
        operation_id="sendData",
        status_code=204,
        summary="Send data into a room",
        opt=described(
            errors=(*OF_ROOM, "livekit_conflict", "participant_not_found"), example={"data": "hello", "topic": "chat"}
        ),
    )
    async def send_data(self, rooms: NamedDependency[ProjectRooms], name: Name, data: JSONBody[SendData]) -> None:
        await rooms.send(name, data)
