"""Administer the instance: its health, all projects, set-aside events and the audit log."""

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.portal.dependencies import Audit
from services.api.portal.instance.service import health_of
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.portal import Portal
from services.api.portal.transactions import Transactions
from shared.accounts.queries import memberships
from shared.audit_log import queries as audit_log
from shared.errors import SetAsideEventNotFound
from shared.events import set_aside
from shared.events.queries import set_aside as set_aside_queries
from shared.infra.json_text import indented
from shared.infra.postgres.pool import Connection

_PAGE = 50
_SET_ASIDE_PAGE = 20
_BODY_SHOWN = 2_000


class InstanceController(Controller):
    path = "/instance"
    opt = {"instance_admin": True}  # noqa: RUF012  # Litestar declares it so

    @get()
    async def health(
        self,
        page: NamedDependency[PageRequest],
        portal: NamedDependency[Portal],
        transactions: NamedDependency[Transactions],
    ) -> Page:
        return page.render("instance.html", health=await health_of(portal, transactions, page.now_ms))

    @get("/projects")
    async def projects(self, page: NamedDependency[PageRequest], conn: NamedDependency[Connection]) -> Page:
        wanted = _without_nul(page.param("q").strip()[:200])
        after = None
        if page.param("after") and "name" in page.request.query_params:
            after = (_without_nul(page.param("name")), _without_nul(page.param("after")))
        found = await memberships.all_projects(conn, wanted, after, _PAGE + 1)
        return page.render("instance_projects.html", projects=found[:_PAGE], more=len(found) > _PAGE, wanted=wanted)

    @get("/set-aside")
    async def set_aside(self, page: NamedDependency[PageRequest], conn: NamedDependency[Connection]) -> Page:
        reason = _without_nul(page.param("reason")[:100]) or None
        counts = await set_aside_queries.count_set_aside(conn)
        events = await set_aside_queries.page_of_set_aside(
            conn, reason=reason, before_id=page.before(), limit=_SET_ASIDE_PAGE + 1
        )
        return page.render(
            "set_aside.html",
            counts=counts,
            events=[(event, _readable(event.body)) for event in events[:_SET_ASIDE_PAGE]],
            more=len(events) > _SET_ASIDE_PAGE,
            reason=reason,
        )

    @post("/set-aside/{event_id:int}/replay")
    async def replay(
        self,
        page: NamedDependency[PageRequest],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        event_id: FromPath[int],
    ) -> Page:
        try:
            await set_aside.replay(conn, [_row_id(event_id)], page.now_ms)
        except SetAsideEventNotFound:
            raise NotFoundException from None
        await audit.record("event_replayed", target=str(event_id))
        return page.redirect("/instance/set-aside", done="event_replayed")

    @post("/set-aside/{event_id:int}/dismiss")
    async def dismiss(
        self,
        page: NamedDependency[PageRequest],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        event_id: FromPath[int],
    ) -> Page:
        try:
            await set_aside.dismiss(conn, [_row_id(event_id)])
        except SetAsideEventNotFound:
            raise NotFoundException from None
        await audit.record("event_dismissed", target=str(event_id))
        return page.redirect("/instance/set-aside", done="event_dismissed")

    @get("/log")
    async def log(self, page: NamedDependency[PageRequest], conn: NamedDependency[Connection]) -> Page:
        entries = await audit_log.entries(conn, None, page.before(), _PAGE + 1)
        return page.render("instance_log.html", entries=entries[:_PAGE], more=len(entries) > _PAGE)


def _without_nul(text: str) -> str:
    """Remove NUL, which Postgres does not accept in text."""
    return text.replace("\0", "")


def _row_id(given: int) -> int:
    """Raise ``NotFoundException`` for a number that no row can have."""
    if not 0 < given < 1 << 63:
        raise NotFoundException
    return given


def _readable(body: bytes) -> str:
    """Return the start of a body, indented if it is JSON."""
    text, is_cut = indented(body, _BODY_SHOWN)
    return f"{text} …" if is_cut else text
