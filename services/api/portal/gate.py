"""What every request to the portal passes before its handler runs, so that no handler can forget it.

A route says what it asks for in its ``opt``:

| opt | who passes |
|---|---|
| nothing | whoever is signed in; with a ``project_id`` in the path its members, for anything but GET its admins and owners |
| ``role`` | members of the project of at least that role |
| ``instance_admin`` | administrators of the instance |
| ``public`` | everybody |

Whoever may not know that a project exists gets the same 404 as for one that does not. Whatever is not GET or HEAD must carry
the form token of its browser and come from our own pages.
"""

from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from litestar import Request
from litestar.exceptions import HTTPException, NotFoundException, PermissionDeniedException

from services.api.portal.forms import parse_form
from services.api.portal.portal import Portal
from services.api.portal.visit import Page, Visit
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.accounts.service import secret_digest
from shared.infra.postgres.pool import borrowed
from shared.models.accounts import Role, at_least

BODY_LIMIT = 64 * 1024
SESSION_IDLE = timedelta(days=14)
SESSION_LONGEST = timedelta(days=90)
_TOUCH_AFTER = timedelta(minutes=10)
_READING = ("GET", "HEAD")


class WrongHost(HTTPException):
    """The request names a host that is not this instance's."""

    status_code = 421


class FormRefused(PermissionDeniedException):
    """A form that did not come from one of our pages in this browser."""


def visit_of(request: Request[Any, Any, Any]) -> Visit | None:
    """The visit that the gate has made of a request, if it came that far."""
    return request.scope.get("relay_visit")  # type: ignore[return-value]  # an entry of our own in ASGI's dict


class Gate:
    """Litestar's ``before_request``: makes the ``Visit``, or answers in the handler's place."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def __call__(self, request: Request[Any, Any, Any]) -> Page | None:
        if not self._portal.hosts.allow(request.headers.get("host")):
            raise WrongHost
        if "\0" in request.scope["path"]:
            raise NotFoundException  # Postgres has no room for it, so nothing is called so
        visit = self._visit(request)
        if not visit.is_new_browser:
            await self._recognise(visit)
        opt = request.route_handler.opt
        if request.method not in _READING:
            self._refuse_other_origins(request)
            visit.form = parse_form(await request.body())
            if not self._portal.cookies.form_token_is_right(visit.browser, visit.form["form_token"]):
                raise FormRefused(
                    "this page was open for too long, or cookies are off; go back, reload it and try again"
                )
            if visit.form["mode"] in ("live", "test"):
                visit.mode = "test" if visit.form["mode"] == "test" else "live"
        if opt.get("public"):
            return None
        if not visit.signed_in:
            return self._to_sign_in(visit)
        if opt.get("instance_admin") and not visit.account.is_admin:
            raise NotFoundException
        if "project_id" in request.path_params:
            await self._open_project(visit, str(request.path_params["project_id"]), opt.get("role"))
        return None

    def _visit(self, request: Request[Any, Any, Any]) -> Visit:
        cookies = self._portal.cookies
        known = cookies.read(request.cookies.get(cookies.name))
        browser, is_current = known or (cookies.new_browser(), True)
        visit = Visit(self._portal, request, browser, new_browser=known is None)
        if not is_current:
            visit.take_browser(browser)  # signed anew, so that nothing hangs on the previous secret any more
        request.scope["relay_visit"] = visit  # type: ignore[typeddict-unknown-key]  # an entry of our own in ASGI's dict
        return visit

    async def _recognise(self, visit: Visit) -> None:
        digest = secret_digest(visit.browser)
        async with borrowed(self._portal.pool) as conn:
            found = await account_queries.session_by_digest(conn, digest, visit.now)
            if found is None:
                return
            account, session = found
            if visit.now - session.seen_at > _TOUCH_AFTER:
                expires_at = min(visit.now + SESSION_IDLE, session.created_at + SESSION_LONGEST)
                await account_queries.touch_session(conn, digest, visit.now, expires_at)
                visit.take_browser(visit.browser)
        visit.enter(account, session)

    def _refuse_other_origins(self, request: Request[Any, Any, Any]) -> None:
        """The form token already proves it; browsers tell as well, so a token that leaked is of no use elsewhere."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise FormRefused("this form was sent from another site")
        origin = request.headers.get("origin")
        ours = {urlsplit(self._portal.settings.relay_api_url).netloc, request.headers.get("host", "")}
        if origin is not None and urlsplit(origin).netloc not in ours - {""}:
            raise FormRefused("this form was sent from another site")

    def _to_sign_in(self, visit: Visit) -> Page:
        request = visit.request
        if request.method not in _READING:
            return visit.redirect("/sign-in")
        query = request.scope["query_string"].decode("latin-1")
        wanted = request.url.path + (f"?{query}" if query else "")
        return visit.redirect("/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted, safe='')}")

    async def _open_project(self, visit: Visit, project_id: str, role: Role | None) -> None:
        account = visit.account
        async with borrowed(self._portal.pool) as conn:
            project = await memberships.project_access(conn, project_id, account.account_id, account.is_admin)
        if project is None:
            raise NotFoundException
        needed: Role = role or ("viewer" if visit.request.method in _READING else "admin")
        visit.open_project(project, needed)
        if not at_least(project.role, needed):
            raise PermissionDeniedException(f"this takes the role {needed}; yours in this project is {project.role}")


def safe_path(wanted: str) -> str:
    """Where to go after signing in: only ever a page of ours, whatever the address said."""
    plain = wanted.isascii() and wanted.isprintable() and "\\" not in wanted
    return wanted if plain and wanted.startswith("/") and not wanted.startswith("//") else "/"
