"""One request for a page: the result of its admission, and the rendering of its answer."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response
from litestar.datastructures import Cookie

from services.api.portal.forms import Form
from services.api.portal.notices import NOTICES
from services.api.portal.passwords.attempts import normalized
from services.api.portal.portal import Portal
from shared.infra.ids import Mode
from shared.models.accounts import Account, BrowserSession, ProjectAccess, Role, at_least

Page = Response[str]
# The list that a page about one room or one event belongs to.
_LISTS = {"room": "rooms", "event": "events"}
# Query parameters that mean the same in live and in test mode.
_KEPT_OVER_MODES = ("period", "from", "to", "granularity", "groupBy")


class PageRequest:
    """Renders the pages of one request. Templates see it as ``page``.

    Admission (admission.py) creates it. ``account`` and ``session`` are None on public routes for visitors who are not signed
    in. ``project`` is None on routes without a project id.
    """

    def __init__(self, portal: Portal, request: Request[Any, Any, Any], browser: str, *, new_browser: bool) -> None:
        self._portal, self.request = portal, request
        self.browser, self.is_new_browser, self._set_cookie = browser, new_browser, new_browser
        self.now_ms = portal.clock.now_ms()
        self.now = datetime.fromtimestamp(self.now_ms / 1000, UTC)
        self.form = Form({})
        self.mode: Mode = "test" if request.query_params.get("mode") == "test" else "live"
        self.account: Account | None = None
        self.session: BrowserSession | None = None
        self.project: ProjectAccess | None = None
        self.needed_role: Role = "viewer"
        self._device_cookie: Cookie | None = None

    @property
    def signed_in(self) -> bool:
        return self.account is not None

    @property
    def in_project(self) -> bool:
        """Whether the page belongs to one project."""
        return self.project is not None

    @property
    def address(self) -> str:
        """The client's address. uvicorn has already read it from a trusted proxy's header."""
        client = self.request.client
        return client.host if client is not None else ""

    def may(self, role: Role) -> bool:
        """Return whether the account has at least this role in the project."""
        return self.project is not None and at_least(self.project.role, role)

    def set_browser(self, browser: str) -> None:
        """Send the cookie of ``browser`` with the answer."""
        self.browser, self._set_cookie = browser, True

    def new_browser(self) -> str:
        """Send the cookie of a new browser with the answer, and return its bits."""
        self.set_browser(self._portal.cookies.new_browser())
        return self.browser

    def remember_device(self, email: str) -> None:
        """Store in a cookie that this browser has signed in to the account.

        Attempts of others then cannot lock it out.
        """
        self._device_cookie = self._portal.cookies.device_cookie(normalized(email))

    def known_device(self, email: str) -> str | None:
        """Return the device cookie, if this browser has signed in to the account before."""
        cookies = self._portal.cookies
        device = self.request.cookies.get(cookies.device_name)
        return device if cookies.device_is_known(device, normalized(email)) else None

    def param(self, name: str) -> str:
        """Return a query parameter; empty if it is missing."""
        return str(self.request.query_params.get(name, ""))

    def before(self) -> int | None:
        """Return the entry after which a page of a numbered list continues."""
        given = self.param("before")
        return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None

    def clear_form(self) -> None:
        """Show the form empty again after a successful request."""
        self.form = Form({})

    def url(self, page: str = "", **query: object) -> str:
        """Return the address of a page of this project in this mode, such as ``page.url("keys")``."""
        given: dict[str, object] = {"mode": self.mode} if self.mode == "test" else {}
        given.update((name, value) for name, value in query.items() if value is not None and value != "")
        path = self._project_path() + (f"/{page}" if page else "")
        return path + (f"?{urlencode(given)}" if given else "")

    def in_mode(self, mode: Mode) -> str:
        """Return the address of this page in the other mode.

        For a page about one room, session or event: its list. After a refused form: the overview.
        """
        base = self._project_path()
        if self.request.method != "GET":
            return base + ("?mode=test" if mode == "test" else "")
        # "/room", "/room/end" and "/sessions/PA_x" lead to "/rooms" and "/sessions".
        page = self.request.url.path.removeprefix(base).strip("/").partition("/")[0]
        path = f"{base}/{_LISTS.get(page, page)}".rstrip("/")
        kept = {name: value for name, value in self.request.query_params.items() if name in _KEPT_OVER_MODES}
        query = urlencode({**kept, **({"mode": "test"} if mode == "test" else {})})
        return path + (f"?{query}" if query else "")

    def render(self, template: str, *, status: int | None = None, **values: Any) -> Page:
        """Render a template with ``values``. The default status is 200, or 422 if the form has errors."""
        if status is None:
            status = 200 if self.form.is_valid else 422
        text = self._portal.templates.get_template(template).render(
            page=self,
            now_ms=self.now_ms,
            form_token=self._portal.cookies.form_token(self.browser),
            notice=NOTICES.get(self.param("done")),
            **values,
        )
        return self._with_cookies(Response(text, status_code=status, media_type="text/html"))

    def redirect(self, path: str, done: str | None = None) -> Page:
        """Send the browser to ``path`` with a GET.

        ``done`` is a key of ``NOTICES``, which that page shows once.
        """
        if done is not None:
            path += ("&" if "?" in path else "?") + f"done={done}"
        return self._with_cookies(Response("", status_code=303, headers={"location": path}, media_type="text/plain"))

    def _project_path(self) -> str:
        assert self.project is not None, "only pages of a project link to its other pages"  # noqa: S101  # a fault of ours
        return f"/projects/{self.project.project_id}"

    def _with_cookies(self, response: Page) -> Page:
        if self._set_cookie:
            response.headers["set-cookie"] = self._portal.cookies.header(self.browser)
        if self._device_cookie is not None:
            response.set_cookie(self._device_cookie)
        return response
