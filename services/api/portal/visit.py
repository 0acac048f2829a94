"""One request to the portal: who asks, in which project and mode, with which form; and how it is answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import PermissionDeniedException

from services.api.portal.forms import Form
from services.api.portal.notices import NOTICES
from services.api.portal.portal import Portal
from services.api.portal.throttle import normalized
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.accounts.service import Actor, actor_of
from shared.accounts.service import record as record_entry
from shared.infra.ids import Mode
from shared.infra.postgres.pool import Connection, borrowed, in_transaction
from shared.models.accounts import Account, BrowserSession, ProjectAccess, Role, at_least
from shared.models.scope import Scope

Page = Response[str]
_LISTS = {"room": "rooms", "event": "events"}
# What of an address means the same in live and in test mode.
_KEPT_OVER_MODES = ("period", "from", "to", "granularity", "groupBy")


class Visit:
    """Made by the gate (gate.py), which has checked what the route asks for: ``account`` is there unless the route is public,
    ``project`` is there, and its role is enough, on every route with a project id."""

    def __init__(self, portal: Portal, request: Request[Any, Any, Any], browser: str, *, new_browser: bool) -> None:
        self.portal, self.request = portal, request
        self.browser, self.is_new_browser, self._set_cookie = browser, new_browser, new_browser
        self.now_ms = portal.clock.now_ms()
        self.now = datetime.fromtimestamp(self.now_ms / 1000, UTC)
        self.form = Form({})
        self.mode: Mode = "test" if request.query_params.get("mode") == "test" else "live"
        self._account: Account | None = None
        self._session: BrowserSession | None = None
        self._project: ProjectAccess | None = None
        self._needed_role: Role = "viewer"
        self._device_cookie: Cookie | None = None

    @property
    def signed_in(self) -> bool:
        return self._account is not None

    @property
    def account(self) -> Account:
        assert self._account is not None, "the gate lets nobody through here without an account"  # noqa: S101
        return self._account

    @property
    def actor(self) -> Actor:
        return actor_of(self.account)

    @property
    def creator(self) -> str:
        """``created_by`` of keys made here."""
        return f"user:{self.account.account_id}"

    @property
    def session(self) -> BrowserSession:
        assert self._session is not None, "the gate lets nobody through here without a session"  # noqa: S101
        return self._session

    @property
    def project(self) -> ProjectAccess:
        assert self._project is not None, "the gate checks the project of every route that names one"  # noqa: S101
        return self._project

    @property
    def in_project(self) -> bool:
        """Whether the page belongs to one project."""
        return self._project is not None

    @property
    def scope(self) -> Scope:
        """What usage and rooms are read by."""
        return Scope(self.project.project_id, self.mode)

    def enter(self, account: Account, session: BrowserSession) -> None:
        self._account, self._session = account, session

    def open_project(self, project: ProjectAccess, needed: Role) -> None:
        self._project, self._needed_role = project, needed

    def take_browser(self, browser: str) -> None:
        """The cookie of the answer carries ``browser`` from now on."""
        self.browser, self._set_cookie = browser, True

    def remember_device(self, email: str) -> None:
        """This browser has signed in to the account: other people's attempts do not lock it out from now on."""
        self._device_cookie = self.portal.cookies.device_cookie(normalized(email))

    def may(self, role: Role) -> bool:
        return self._project is not None and at_least(self._project.role, role)

    def form_is_done(self) -> None:
        """What it asked for was done: the page that says so shows it empty, ready for the next."""
        self.form = Form({})

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """One snapshot for everything that a page shows."""
        async with borrowed(self.portal.pool) as conn, in_transaction(conn, snapshot=True):
            yield conn

    @asynccontextmanager
    async def writing(self, *, takes_rights: bool = False) -> AsyncIterator[Connection]:
        """One transaction, committed when the block ends without an exception. The rights that the request was admitted by are
        checked again in it and hold until it ends; ``takes_rights`` if it takes rights from somebody. Raises
        ``PermissionDeniedException``."""
        async with borrowed(self.portal.pool) as conn, in_transaction(conn):
            await account_queries.lock_rights(conn, exclusive=takes_rights)
            if self._session is not None and not await self._still_allowed(conn):
                raise PermissionDeniedException("your rights have changed meanwhile; reload the page and try again")
            yield conn

    async def _still_allowed(self, conn: Connection) -> bool:
        found = await account_queries.session_by_digest(conn, self.session.digest, self.now)
        if found is None:
            return False
        account, _ = found
        if account.is_admin != self.account.is_admin:
            return False
        if self._project is None:
            return True
        project_id = self._project.project_id
        project = await memberships.project_access(conn, project_id, account.account_id, account.is_admin)
        return project is not None and at_least(project.role, self._needed_role)

    async def record(self, conn: Connection, action: str, target: str = "", detail: str = "") -> None:
        """Notes in the audit log that this account did something in this project."""
        project_id = None if self._project is None else self._project.project_id
        await record_entry(conn, self.actor, action, self.now, project_id=project_id, target=target, detail=detail)

    def url(self, page: str = "", **query: object) -> str:
        """The address of a page of this project in this mode: ``visit.url("keys")``."""
        given: dict[str, object] = {"mode": self.mode} if self.mode == "test" else {}
        given.update((name, value) for name, value in query.items() if value is not None and value != "")
        path = f"/projects/{self.project.project_id}" + (f"/{page}" if page else "")
        return path + (f"?{urlencode(given)}" if given else "")

    def in_mode(self, mode: Mode) -> str:
        """This page in the other mode: of what is in one mode alone, the list it belongs to; from a form that was refused,
        the overview."""
        base = f"/projects/{self.project.project_id}"
        if self.request.method != "GET":
            return base + ("?mode=test" if mode == "test" else "")
        # "/room", "/room/end" and "/sessions/PA_x" lead to "/rooms" and "/sessions".
        page = self.request.url.path.removeprefix(base).strip("/").partition("/")[0]
        path = f"{base}/{_LISTS.get(page, page)}".rstrip("/")
        kept = {name: value for name, value in self.request.query_params.items() if name in _KEPT_OVER_MODES}
        query = urlencode({**kept, **({"mode": "test"} if mode == "test" else {})})
        return path + (f"?{query}" if query else "")

    def before(self) -> int | None:
        """The entry that a page of a numbered list goes on after."""
        given = self.request.query_params.get("before", "")
        return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None

    def page(self, template: str, *, status: int = 200, **values: Any) -> Page:
        """A rendered template; ``values`` are what it shows beside what every page does."""
        text = self.portal.templates.get_template(template).render(
            visit=self,
            now_ms=self.now_ms,
            form_token=self.portal.cookies.form_token(self.browser),
            notice=NOTICES.get(self.request.query_params.get("done", "")),
            **values,
        )
        return self._with_cookie(Response(text, status_code=status, media_type="text/html"))

    def redirect(self, path: str, done: str | None = None) -> Page:
        """Sends the browser on with a GET; ``done`` is a key of ``NOTICES``, shown once there."""
        if done is not None:
            path += ("&" if "?" in path else "?") + f"done={done}"
        return self._with_cookie(Response("", status_code=303, headers={"location": path}, media_type="text/plain"))

    def _with_cookie(self, response: Page) -> Page:
        if self._set_cookie:
            response.headers["set-cookie"] = self.portal.cookies.header(self.browser)
        if self._device_cookie is not None:
            response.set_cookie(self._device_cookie)
        return response
