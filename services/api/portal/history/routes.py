"""Show sessions, the timeline of a session, and the events as LiveKit sent them."""

from typing import Final

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.events.schemas import EventsQuery
from services.api.events.service import event_on, events_on
from services.api.http.query import decode_query
from services.api.portal.history.service import lanes_of
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from services.api.sessions.schemas import SessionsQuery
from services.api.sessions.service import session_on, sessions_on
from shared.errors import InvalidRequest, SessionNotFound
from shared.infra.json_text import indented
from shared.infra.postgres.pool import Connection
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock

_PAGE = "50"
# Limits a page to 150 kB.
_PAYLOAD_SHOWN = 60_000
_EXACT: Final = ("room", "identity")
KINDS: Final = ("STANDARD", "AGENT", "SIP", "INGRESS")
EVENT_NAMES: Final = (
    "room_started", "room_finished", "participant_joined", "participant_left", "participant_connection_aborted",
    "track_published", "track_unpublished", "egress_started", "egress_updated", "egress_ended", "ingress_started",
    "ingress_ended",
)  # fmt: skip


class HistoryController(Controller):
    path = "/projects/{project_id:str}"

    @get("/sessions")
    async def sessions(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        usage_clock: NamedDependency[UsageClock],
        conn: NamedDependency[Connection],
    ) -> Page:
        wanted = _wanted(page, ("room", "identity", "kind", "status"))
        params = _params(page, wanted)
        try:
            query = decode_query(SessionsQuery, params.items())
            found = await sessions_on(conn, project_scope, query, usage_clock)
        except InvalidRequest as error:
            return page.render(
                "sessions.html", status=422, wanted=wanted, problem=spoken(error), found=None, kinds=KINDS
            )
        return page.render("sessions.html", wanted=wanted, problem=None, found=found, kinds=KINDS)

    @get("/sessions/{sid:str}")
    async def session(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        usage_clock: NamedDependency[UsageClock],
        conn: NamedDependency[Connection],
        sid: FromPath[str],
    ) -> Page:
        try:
            session = await session_on(conn, project_scope, sid, usage_clock)
        except SessionNotFound:
            raise NotFoundException from None
        events = await events_on(conn, project_scope, EventsQuery(session=sid, limit=100))
        return page.render("session.html", session=session, lanes=lanes_of(session), events=events.events[::-1])

    @get("/events")
    async def events(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
    ) -> Page:
        wanted = _wanted(page, ("event", "room", "identity", "session"))
        params = _params(page, wanted)
        try:
            found = await events_on(conn, project_scope, decode_query(EventsQuery, params.items()))
        except InvalidRequest as error:
            return page.render(
                "events.html", status=422, wanted=wanted, problem=spoken(error), found=None, names=EVENT_NAMES
            )
        return page.render("events.html", wanted=wanted, problem=None, found=found, names=EVENT_NAMES)

    @get("/event")
    async def event(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
    ) -> Page:
        """Show one event. ``at``: the time when LiveKit created it, which selects its partition."""
        try:
            event = await event_on(conn, project_scope, page.param("id"), page.param("at"))
        except InvalidRequest:
            event = None
        if event is None:
            raise NotFoundException
        payload, cut = None, False
        if event.payload is not None:
            payload, cut = indented(bytes(event.payload), _PAYLOAD_SHOWN)
        return page.render("event.html", event=event, payload=payload, cut=cut)


def _wanted(page: PageRequest, names: tuple[str, ...]) -> dict[str, str]:
    given = {name: page.param(name) for name in (*names, "from", "to")}
    # LiveKit accepts names with spaces around them, so they are compared unchanged.
    return {name: value if name in _EXACT else value.strip() for name, value in given.items()}


def _params(page: PageRequest, wanted: dict[str, str]) -> dict[str, str]:
    """Return the query of the page as parameters of the API. A date means its midnight."""
    params = {name: value for name, value in wanted.items() if value}
    for name in ("from", "to"):
        if len(params.get(name, "")) == 10:
            params[name] += "T00:00:00Z"
    cursor = page.param("cursor")
    return {**params, "limit": _PAGE, **({"cursor": cursor} if cursor else {})}
