"""Admit requests to the portal before their handlers run, so that no handler can forget a check.

A route states what it needs in its ``opt``:

| opt | who is admitted |
|---|---|
| none | signed-in accounts; with a ``project_id`` in the path only its members, and for POST only its admins and owners |
| ``role`` | members of the project with at least that role |
| ``instance_admin`` | administrators of the instance |
| ``public`` | everybody |

A project that the account may not see answers 404, like one that does not exist. Every request that is not GET or HEAD must
carry the form token of its browser and come from a page of the portal.
"""

from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from litestar import Request
from litestar.exceptions import HTTPException, NotFoundException, PermissionDeniedException

from services.api.portal.dependencies import remember_page_request
from services.api.portal.forms import parse_form
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.portal import Portal
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.accounts.service import secret_digest
from shared.infra.postgres.pool import borrowed
from shared.models.accounts import Account, Role, at_least

BODY_LIMIT = 64 * 1024
SESSION_IDLE = timedelta(days=14)
SESSION_LONGEST = timedelta(days=90)
_TOUCH_AFTER = timedelta(minutes=10)
_READING = ("GET", "HEAD")


class WrongHost(HTTPException):
    """The `Host` header does not name a host of this instance."""

    status_code = 421


class FormRefused(PermissionDeniedException):
    """The form was not sent by a page of the portal in this browser."""


class Admission:
    """Litestar's ``before_request``. Creates the ``PageRequest``, or answers in place of the handler."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def __call__(self, request: Request[Any, Any, Any]) -> Page | None:
        if not self._portal.hosts.allow(request.headers.get("host")):
            raise WrongHost
        if "\0" in request.scope["path"]:
            raise NotFoundException  # Postgres stores no NUL, so no row has such a name
        page = self._page_request(request)
        if request.method not in _READING:
            await self._take_form(page)
        if not page.is_new_browser:
            await self._recognise(page)
        opt = request.route_handler.opt
        if opt.get("public"):
            return None
        if page.account is None:
            return _to_sign_in(page)
        if opt.get("instance_admin") and not page.account.is_admin:
            raise NotFoundException
        if "project_id" in request.path_params:
            await self._open_project(page, page.account, str(request.path_params["project_id"]), opt.get("role"))
        return None

    def _page_request(self, request: Request[Any, Any, Any]) -> PageRequest:
        cookies = self._portal.cookies
        known = cookies.read(request.cookies.get(cookies.name))
        browser, is_current = known or (cookies.new_browser(), True)
        page = PageRequest(self._portal, request, browser, new_browser=known is None)
        if not is_current:
            page.set_browser(browser)  # signed with the current secret, so that the previous one can be removed
        remember_page_request(request, page)
        return page

    async def _take_form(self, page: PageRequest) -> None:
        self._refuse_other_origins(page.request)
        page.form = parse_form(await page.request.body())
        if not self._portal.cookies.form_token_is_right(page.browser, page.form["form_token"]):
            raise FormRefused("this page has expired, or cookies are switched off; go back, reload it and try again")
        if page.form["mode"] in ("live", "test"):
            page.mode = "test" if page.form["mode"] == "test" else "live"

    async def _recognise(self, page: PageRequest) -> None:
        digest = secret_digest(page.browser)
        async with borrowed(self._portal.pool) as conn:
            found = await account_queries.session_by_digest(conn, digest, page.now)
            if found is None:
                return
            account, session = found
            if page.now - session.seen_at > _TOUCH_AFTER:
                expires_at = min(page.now + SESSION_IDLE, session.created_at + SESSION_LONGEST)
                await account_queries.touch_session(conn, digest, page.now, expires_at)
                page.set_browser(page.browser)
        page.account, page.session = account, session

    def _refuse_other_origins(self, request: Request[Any, Any, Any]) -> None:
        """Refuse forms of other sites.

        The form token does this too. This check also makes a leaked token useless on other sites.
        """
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise FormRefused("this form was sent from another site")
        origin = request.headers.get("origin")
        own_hosts = {urlsplit(self._portal.settings.relay_api_url).netloc, request.headers.get("host", "")}
        if origin is not None and urlsplit(origin).netloc not in own_hosts - {""}:
            raise FormRefused("this form was sent from another site")

    async def _open_project(self, page: PageRequest, account: Account, project_id: str, role: Role | None) -> None:
        async with borrowed(self._portal.pool) as conn:
            project = await memberships.project_access(conn, project_id, account.account_id, account.is_admin)
        if project is None:
            raise NotFoundException
        needed: Role = role or ("viewer" if page.request.method in _READING else "admin")
        page.project, page.needed_role = project, needed
        if not at_least(project.role, needed):
            raise PermissionDeniedException(
                f"this needs the role {needed}; your role in this project is {project.role}"
            )


def _to_sign_in(page: PageRequest) -> Page:
    request = page.request
    if request.method not in _READING:
        return page.redirect("/sign-in")
    query = request.scope["query_string"].decode("latin-1")
    wanted = request.url.path + (f"?{query}" if query else "")
    return page.redirect("/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted, safe='')}")


def safe_path(wanted: str) -> str:
    """Return the page to open after signing in. Anything that is not a path of this site becomes ``/``."""
    plain = wanted.isascii() and wanted.isprintable() and "\\" not in wanted
    return wanted if plain and wanted.startswith("/") and not wanted.startswith("//") else "/"
