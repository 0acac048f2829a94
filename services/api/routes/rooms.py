"""`/v1/rooms`: the rooms of the key's project and mode."""

from types import MappingProxyType
from typing import Annotated, Any

from litestar import Controller, Request, delete, get, patch, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.handlers.base import BaseRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from services.api.context import Context
from services.api.rooms import ProjectRooms
from shared.errors import InvalidRequest
from shared.models.names import RoomName
from shared.models.rooms import CreateRoom, RoomAnswer, RoomDetails, RoomPage, SendData, UpdateRoom

MAX_PAGE = 1000
Limit = Annotated[
    int | None, QueryParameter(ge=1, le=MAX_PAGE, description="at most this many, with a cursor if more follow")
]
Cursor = Annotated[str | None, QueryParameter(max_length=1024, description="`nextCursor` of the page before")]
Name = FromPath[RoomName]


def refuse_hidden_slashes(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """``lobby%2Fparticipants%2Fada`` is decoded before it is routed, and would reach an address that was not written."""
    raw: bytes = connection.scope.get("raw_path") or b""
    if b"%2f" in raw.lower() or b"//" in raw:
        raise InvalidRequest("names in this address must not be empty or contain a slash")


async def project_rooms(request: Request[Any, Any, Any], context: NamedDependency[Context]) -> ProjectRooms:
    key = await context.keys.authenticate(request.headers.get("authorization"))
    return ProjectRooms(context.livekit, key.project_id, key.mode)


class RoomsController(Controller):
    path = "/v1/rooms"
    guards = (refuse_hidden_slashes,)
    dependencies = MappingProxyType({"rooms": Provide(project_rooms)})
    tags = ("Rooms",)

    @get(summary="List the open rooms")
    async def list_rooms(
        self, rooms: NamedDependency[ProjectRooms], limit: Limit = None, cursor: Cursor = None
    ) -> RoomPage:
        """By name; all of them without `limit`."""
        return await rooms.open_rooms(limit, cursor)

    @post(summary="Open a room")
    async def create_room(self, rooms: NamedDependency[ProjectRooms], data: JSONBody[CreateRoom]) -> RoomAnswer:
        """A room of this name that is open already is answered as it is; nothing of it changes."""
        return await rooms.create(data)

    @get("/{name:str}", summary="A room with its participants")
    async def get_room(self, rooms: NamedDependency[ProjectRooms], name: Name) -> RoomDetails:
        return await rooms.get(name)

    @patch("/{name:str}", summary="Change a room's metadata")
    async def update_room(
        self, rooms: NamedDependency[ProjectRooms], name: Name, data: JSONBody[UpdateRoom]
    ) -> RoomAnswer:
        return await rooms.update(name, data)

    @delete("/{name:str}", summary="End a room")
    async def end_room(self, rooms: NamedDependency[ProjectRooms], name: Name) -> None:
        """Disconnects everyone in it."""
        await rooms.end(name)

    @post("/{name:str}/data", status_code=204, summary="Send data into a room")
    async def send_data(self, rooms: NamedDependency[ProjectRooms], name: Name, data: JSONBody[SendData]) -> None:
        await rooms.send(name, data)
