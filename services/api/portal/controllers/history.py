"""What happened: sessions, a session's timeline, and the events as LiveKit sent them."""

from datetime import datetime
from typing import Final, NamedTuple

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.events.schemas import EventsQuery
from services.api.events.service import event_for, events_for
from services.api.http.query import decode_query
from services.api.portal.notices import spoken
from services.api.portal.usage_view import asked
from services.api.portal.visit import Page, Visit
from services.api.sessions.schemas import ListedSession, SessionsQuery
from services.api.sessions.service import session_for, sessions_for
from shared.errors import InvalidRequest, SessionNotFound
from shared.infra.json_text import indented

_PAGE = "50"
# A page stays under 150 kB.
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
    async def sessions(self, visit: NamedDependency[Visit]) -> Page:
        wanted = _wanted(visit, ("room", "identity", "kind", "status"))
        params = _params(visit, wanted)
        try:
            query = decode_query(SessionsQuery, params.items())
            found = await sessions_for(visit.portal.pool, visit.scope, query, asked(visit))
        except InvalidRequest as error:
            return visit.page(
                "sessions.html", status=422, wanted=wanted, problem=spoken(error), found=None, kinds=KINDS
            )
        return visit.page("sessions.html", wanted=wanted, problem=None, found=found, kinds=KINDS)

    @get("/sessions/{sid:str}")
    async def session(self, visit: NamedDependency[Visit], sid: FromPath[str]) -> Page:
        try:
            session = await session_for(visit.portal.pool, visit.scope, sid, asked(visit))
        except SessionNotFound:
            raise NotFoundException from None
        events = await events_for(visit.portal.pool, visit.scope, EventsQuery(session=sid, limit=100))
        return visit.page("session.html", session=session, lanes=_lanes(session), events=events.events[::-1])

    @get("/events")
    async def events(self, visit: NamedDependency[Visit]) -> Page:
        wanted = _wanted(visit, ("event", "room", "identity", "session"))
        params = _params(visit, wanted)
        try:
            found = await events_for(visit.portal.pool, visit.scope, decode_query(EventsQuery, params.items()))
        except InvalidRequest as error:
            return visit.page(
                "events.html", status=422, wanted=wanted, problem=spoken(error), found=None, names=EVENT_NAMES
            )
        return visit.page("events.html", wanted=wanted, problem=None, found=found, names=EVENT_NAMES)

    @get("/event")
    async def event(self, visit: NamedDependency[Visit]) -> Page:
        """One event: ``at`` is when LiveKit created it, by which its partition is found."""
        given = visit.request.query_params
        try:
            event = await event_for(visit.portal.pool, visit.scope, given.get("id", ""), given.get("at", ""))
        except InvalidRequest:
            event = None
        if event is None:
            raise NotFoundException
        payload, cut = None, False
        if event.payload is not None:
            payload, cut = indented(bytes(event.payload), _PAYLOAD_SHOWN)
        return visit.page("event.html", event=event, payload=payload, cut=cut)


def _wanted(visit: Visit, names: tuple[str, ...]) -> dict[str, str]:
    given = {name: visit.request.query_params.get(name, "") for name in (*names, "from", "to")}
    # Names are looked for as they are: LiveKit takes blanks around them.
    return {name: value if name in _EXACT else value.strip() for name, value in given.items()}


def _params(visit: Visit, wanted: dict[str, str]) -> dict[str, str]:
    """The page's address as the parameters of the API. Days are given as dates."""
    params = {name: value for name, value in wanted.items() if value}
    for name in ("from", "to"):
        if len(params.get(name, "")) == 10:
            params[name] += "T00:00:00Z"
    cursor = visit.request.query_params.get("cursor")
    return {**params, "limit": _PAGE, **({"cursor": cursor} if cursor else {})}


class Lane(NamedTuple):
    """A stripe of a session's timeline, in per cent of its width."""

    name: str
    detail: str
    tone: str
    x: float
    width: float


def _lanes(session: ListedSession) -> list[Lane]:
    """The session and, below it, its tracks."""
    start, end = _ms(session.started_at), max(_ms(session.counted_until), _ms(session.started_at) + 1)

    def scale(at: int) -> float:
        return round(100 * min(max((at - start) / (end - start), 0), 1), 3)

    lanes = [Lane("Connected", f"{session.participant_minutes} minutes", "peak", 0, 100)]
    for track in session.tracks or ():
        begins = start if track.published_at is None else _ms(track.published_at)
        ends = end if track.unpublished_at is None else _ms(track.unpublished_at)
        x = scale(begins)
        # A client that names no source, such as an agent, still says whether it is heard or seen.
        name = (track.type if track.source == "UNKNOWN" else track.source).capitalize().replace("_", " ")
        tone = "video" if track.type == "VIDEO" else "audio"
        lanes.append(Lane(name, track.sid, tone, x, max(scale(ends) - x, 0.4)))
    return lanes


def _ms(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000)
