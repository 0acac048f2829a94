"""Rooms that are open right now: who is in them, ending one, removing somebody.

Names stand in the query, not in the path: strangers choose them, slashes and dots included."""

from typing import Any

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal.notices import spoken
from services.api.portal.usage_view import asked
from services.api.portal.visit import Page, Visit
from services.api.rooms.recorded_acts import RecordedActs
from services.api.rooms.service import ProjectRooms
from shared.errors import LiveKitError, ParticipantNotFound, RoomNotFound
from shared.usage.queries import overview as queries

_MOST_ROOMS, _MOST_PEOPLE = 200, 200


class RoomController(Controller):
    path = "/projects/{project_id:str}"

    @get("/rooms")
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        """As LiveKit lists them; where it does not answer, as its webhooks told."""
        problem, listed = None, None
        try:
            listed = (await visit.portal.patience.ask(_rooms(visit).open_rooms(None, None))).rooms
        except LiveKitError as error:
            problem = spoken(error)
        async with visit.reading() as conn:
            live = await queries.live_now(conn, visit.scope, asked(visit), _MOST_ROOMS)
        wanted = visit.request.query_params.get("q", "").strip()
        known = {room.room: room for room in live.busiest}
        if listed is None:
            names = [room.room for room in live.busiest]
        else:
            names = [room.room for room in sorted(listed, key=lambda room: (-room.num_participants, room.room))]
        found = [name for name in names if wanted.lower() in name.lower()]
        return visit.page(
            "rooms.html",
            problem=problem,
            names=found[:_MOST_ROOMS],
            total=len(found),
            listed={room.room: room for room in listed or ()},
            known=known,
            wanted=wanted,
        )

    @get("/room")
    async def room(self, visit: NamedDependency[Visit]) -> Page:
        return await _room_page(visit, visit.request.query_params.get("name", ""))

    @get("/room/end", opt={"role": "admin"})
    async def confirm_end(self, visit: NamedDependency[Visit]) -> Page:
        return visit.page("room_end.html", name=visit.request.query_params.get("name", ""))

    @post("/room/end")
    async def end(self, visit: NamedDependency[Visit]) -> Page:
        name = _named(visit, "name")
        try:
            await _rooms(visit).end(name)
        except (LiveKitError, RoomNotFound) as error:
            return await _room_page(visit, name, status=_status(error), problem=spoken(error))
        return visit.redirect(visit.url("rooms"), done="room_ended")

    @get("/room/remove", opt={"role": "admin"})
    async def confirm_remove(self, visit: NamedDependency[Visit]) -> Page:
        params = visit.request.query_params
        return visit.page("participant_remove.html", name=params.get("name", ""), identity=params.get("identity", ""))

    @post("/room/remove")
    async def remove(self, visit: NamedDependency[Visit]) -> Page:
        name, identity = _named(visit, "name"), _named(visit, "identity")
        try:
            await _rooms(visit).remove(name, identity)
        except (LiveKitError, RoomNotFound, ParticipantNotFound) as error:
            return await _room_page(visit, name, status=_status(error), problem=spoken(error))
        return visit.redirect(visit.url("room", name=name), done="participant_removed")


def _rooms(visit: Visit) -> ProjectRooms:
    context = visit.portal.context
    acts = RecordedActs(context.pool, context.clock, visit.actor, visit.project.project_id, visit.mode)
    return ProjectRooms(context.livekit, acts)


def _named(visit: Visit, name: str) -> str:
    """From the address, where a name arrives as it is: browsers change line breaks in the fields of a form."""
    return visit.request.query_params.get(name, "") or visit.form[name]


async def _room_page(visit: Visit, name: str, status: int = 200, problem: str | None = None) -> Page:
    room: Any = None
    try:
        room = await visit.portal.patience.ask(_rooms(visit).get(name))
    except RoomNotFound:
        status = 404 if status == 200 else status
    except LiveKitError as error:
        problem, status = problem or spoken(error), _status(error)
    people = room.participants if room is not None else []
    shown = people[:_MOST_PEOPLE]
    return visit.page(
        "room.html", status=status, name=name, room=room, people=shown, more=len(people) - len(shown), problem=problem
    )


def _status(error: Exception) -> int:
    return 502 if isinstance(error, LiveKitError) else 404
