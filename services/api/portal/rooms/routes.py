"""Show open rooms and their participants, end a room, remove a participant.

Room names and identities are in the query, not in the path, because they may contain slashes and dots.
"""

from typing import Any

from litestar import Controller, get, post
from litestar.di import NamedDependency, Provide

from services.api.portal.forms import Form
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.portal import Portal
from services.api.portal.rooms.livekit_patience import LiveKitPatience
from services.api.portal.transactions import Transactions
from services.api.rooms.recorded_acts import RecordedActs
from services.api.rooms.service import ProjectRooms
from shared.accounts.service import Actor
from shared.errors import LiveKitError, ParticipantNotFound, RoomNotFound
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock
from shared.usage.queries import overview as queries

_MOST_ROOMS, _MOST_PEOPLE = 200, 200


def provide_rooms(
    page: NamedDependency[PageRequest],
    portal: NamedDependency[Portal],
    actor: NamedDependency[Actor],
    project_scope: NamedDependency[Scope],
) -> ProjectRooms:
    """Return the rooms of this project and mode."""
    acts = RecordedActs(portal.pool, portal.clock, actor, project_scope.project_id, page.mode)
    return ProjectRooms(portal.livekit, acts)


def provide_patience(portal: NamedDependency[Portal]) -> LiveKitPatience:
    return portal.patience


class RoomController(Controller):
    """The pages of open rooms. Handlers hold no connection while they wait for LiveKit."""

    path = "/projects/{project_id:str}"
    dependencies = {  # noqa: RUF012  # Litestar declares it so
        "rooms": Provide(provide_rooms, sync_to_thread=False),
        "patience": Provide(provide_patience, sync_to_thread=False),
    }

    @get("/rooms")
    async def show(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        usage_clock: NamedDependency[UsageClock],
        rooms: NamedDependency[ProjectRooms],
        patience: NamedDependency[LiveKitPatience],
        transactions: NamedDependency[Transactions],
    ) -> Page:
        """Return the rooms that LiveKit lists, or those that its webhooks reported if it does not answer."""
        problem, listed = None, None
        try:
            listed = (await patience.ask(rooms.open_rooms(None, None))).rooms
        except LiveKitError as error:
            problem = spoken(error)
        async with transactions.reading() as conn:
            live = await queries.live_now(conn, project_scope, usage_clock, _MOST_ROOMS)
        wanted = page.param("q").strip()
        if listed is None:
            names = [room.room for room in live.busiest]
        else:
            names = [room.room for room in sorted(listed, key=lambda room: (-room.num_participants, room.room))]
        found = [name for name in names if wanted.lower() in name.lower()]
        return page.render(
            "rooms.html",
            problem=problem,
            names=found[:_MOST_ROOMS],
            total=len(found),
            listed={room.room: room for room in listed or ()},
            known={room.room: room for room in live.busiest},
            wanted=wanted,
        )

    @get("/room")
    async def room(
        self,
        page: NamedDependency[PageRequest],
        rooms: NamedDependency[ProjectRooms],
        patience: NamedDependency[LiveKitPatience],
    ) -> Page:
        return await _room_page(page, rooms, patience, page.param("name"))

    @get("/room/end", opt={"role": "admin"})
    async def confirm_end(self, page: NamedDependency[PageRequest]) -> Page:
        return page.render("room_end.html", name=page.param("name"))

    @post("/room/end")
    async def end(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        rooms: NamedDependency[ProjectRooms],
        patience: NamedDependency[LiveKitPatience],
    ) -> Page:
        name = _named(page, form, "name")
        try:
            await rooms.end(name)
        except (LiveKitError, RoomNotFound) as error:
            return await _room_page(page, rooms, patience, name, status=_status(error), problem=spoken(error))
        return page.redirect(page.url("rooms"), done="room_ended")

    @get("/room/remove", opt={"role": "admin"})
    async def confirm_remove(self, page: NamedDependency[PageRequest]) -> Page:
        return page.render("participant_remove.html", name=page.param("name"), identity=page.param("identity"))

    @post("/room/remove")
    async def remove(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        rooms: NamedDependency[ProjectRooms],
        patience: NamedDependency[LiveKitPatience],
    ) -> Page:
        name, identity = _named(page, form, "name"), _named(page, form, "identity")
        try:
            await rooms.remove(name, identity)
        except (LiveKitError, RoomNotFound, ParticipantNotFound) as error:
            return await _room_page(page, rooms, patience, name, status=_status(error), problem=spoken(error))
        return page.redirect(page.url("room", name=name), done="participant_removed")


def _named(page: PageRequest, form: Form, name: str) -> str:
    """Return a name from the URL. Form fields are not used, because browsers change their line breaks."""
    return page.param(name) or form[name]


async def _room_page(
    page: PageRequest,
    rooms: ProjectRooms,
    patience: LiveKitPatience,
    name: str,
    status: int = 200,
    problem: str | None = None,
) -> Page:
    room: Any = None
    try:
        room = await patience.ask(rooms.get(name))
    except RoomNotFound:
        status = 404 if status == 200 else status
    except LiveKitError as error:
        problem, status = problem or spoken(error), _status(error)
    people = room.participants if room is not None else []
    shown = people[:_MOST_PEOPLE]
    return page.render(
        "room.html", status=status, name=name, room=room, people=shown, more=len(people) - len(shown), problem=problem
    )


def _status(error: Exception) -> int:
    return 502 if isinstance(error, LiveKitError) else 404
