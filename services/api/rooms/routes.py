"""Manage the open rooms of the key's project and mode: `/v1/rooms`."""

from typing import Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from services.api.http.idempotency import IDEMPOTENT, IDEMPOTENT_ERRORS, attempt_of, once
from services.api.http.openapi import described
from services.api.rooms.dependencies import LIVEKIT_ERRORS, ROOM_DEPENDENCIES, ROOM_ERRORS, RoomInPath
from services.api.rooms.paths import read_names
from services.api.rooms.schemas import CreateRoom, PageQuery, RoomAnswer, RoomDetails, RoomPage, SendData, UpdateRoom
from services.api.rooms.service import ProjectRooms
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Pool


class RoomsController(Controller):
    path = "/rooms"
    guards = (read_names,)
    dependencies = ROOM_DEPENDENCIES
    tags = ("rooms",)

    @get(
        operation_id="listRooms",
        summary="List the open rooms",
        description="By name. Without `limit` the answer has all of them.",
        opt=described(errors=(*LIVEKIT_ERRORS, "invalid_cursor")),
    )
    async def list_rooms(self, rooms: NamedDependency[ProjectRooms], params: NamedDependency[PageQuery]) -> RoomPage:
        return await rooms.open_rooms(params.limit, params.cursor)

    @post(
        operation_id="createRoom",
        summary="Open a room",
        description="If a room of this name is open already, the answer shows it and nothing changes.",
        opt=described(
            errors=(*LIVEKIT_ERRORS, "livekit_conflict", *IDEMPOTENT_ERRORS),
            example={"name": "lobby", "maxParticipants": 20},
            **IDEMPOTENT,
        ),
    )
    async def create_room(
        self,
        request: Request[Any, Any, Any],
        pool: NamedDependency[Pool],
        clock: NamedDependency[Clock],
        rooms: NamedDependency[ProjectRooms],
        data: JSONBody[CreateRoom],
    ) -> Response[RoomAnswer]:
        attempt = attempt_of(request, rooms.project_id, rooms.mode, data)
        return await once(pool, attempt, clock.now_ms(), lambda: rooms.create(data))

    @get(
        "/{name:str}",
        operation_id="getRoom",
        summary="Get a room with its participants",
        opt=described(errors=ROOM_ERRORS),
    )
    async def get_room(self, rooms: NamedDependency[ProjectRooms], name: RoomInPath) -> RoomDetails:
        return await rooms.get(name)

    @patch(
        "/{name:str}",
        operation_id="updateRoom",
        summary="Change a room's metadata",
        opt=described(errors=ROOM_ERRORS, example={"metadata": "chapter 2"}),
    )
    async def update_room(
        self, rooms: NamedDependency[ProjectRooms], name: RoomInPath, data: JSONBody[UpdateRoom]
    ) -> RoomAnswer:
        return await rooms.update(name, data)

    @delete(
        "/{name:str}",
        operation_id="endRoom",
        summary="End a room",
        description="Disconnects everyone in the room. The project's audit log records it.",
        opt=described(errors=ROOM_ERRORS),
    )
    async def end_room(self, rooms: NamedDependency[ProjectRooms], name: RoomInPath) -> None:
        await rooms.end(name)

    @post(
        "/{name:str}/data",
        operation_id="sendData",
        status_code=204,
        summary="Send data into a room",
        opt=described(
            errors=(*ROOM_ERRORS, "livekit_conflict", "participant_not_found"),
            example={"data": "hello", "topic": "chat"},
        ),
    )
    async def send_data(self, rooms: NamedDependency[ProjectRooms], name: RoomInPath, data: JSONBody[SendData]) -> None:
        await rooms.send(name, data)
