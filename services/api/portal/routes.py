"""The portal's routes, its gate, its headers and its errors, as one router for the application."""

import logging
from collections.abc import Callable
from typing import Any

import asyncpg
from litestar import Request, Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from services.api.portal.controllers import (
    account,
    history,
    instance,
    keys,
    members,
    overview,
    projects,
    quickstart,
    rooms,
    sign_in,
    sign_up,
    usage,
)
from services.api.portal.gate import BODY_LIMIT, Gate, visit_of
from services.api.portal.passwords import TooBusy
from services.api.portal.portal import Portal
from services.api.portal.visit import Page, Visit
from shared.errors import LiveKitError, RelayError, StoreUnavailable
from shared.infra.logs import request_id
from shared.infra.postgres.pool import UNAVAILABLE

log = logging.getLogger("relay.api")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: browsers would then send forms with `Origin: null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_HSTS = "max-age=31536000"
HANDLERS: list[ControllerRouterHandler] = [
    account.AccountController,
    history.HistoryController,
    instance.InstanceController,
    keys.KeyController,
    members.MemberController,
    overview.OverviewController,
    projects.ProjectListController,
    projects.ProjectController,
    quickstart.QuickstartController,
    rooms.RoomController,
    sign_in.SignInController,
    sign_up.SignUpController,
    usage.UsageController,
]


def portal_router(portal: Portal) -> Router:
    gate = Gate(portal)

    # A function, because Litestar makes deep copies of routers, and only functions are left whole.
    async def pass_gate(request: Request[Any, Any, Any]) -> Page | None:
        return await gate(request)

    @get("/static/{version:str}/{name:str}", opt={"public": True}, before_request=_nobody)
    async def static(version: FromPath[str], name: FromPath[str]) -> Response[bytes]:
        return portal.static.answer(version, name)

    @get("/favicon.ico", opt={"public": True}, before_request=_nobody)
    async def favicon() -> Response[bytes]:
        return portal.static.answer("", "favicon.svg")

    @get("/", opt={"public": True})
    async def home(visit: NamedDependency[Visit]) -> Page:
        return visit.redirect("/projects" if visit.signed_in else "/sign-in")

    def add_headers(response: Response[Any]) -> Response[Any]:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("cache-control", "no-store")
        if portal.cookies.secure:
            response.headers.setdefault("strict-transport-security", _HSTS)
        return response

    def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        return add_headers(error_page(portal, request, error))

    return Router(
        "/",
        route_handlers=[home, static, favicon, *HANDLERS],
        before_request=pass_gate,
        after_request=add_headers,
        exception_handlers={Exception: answer_error},
        dependencies={"visit": Provide(visit_of, sync_to_thread=False)},
        request_max_body_size=BODY_LIMIT,
        include_in_schema=False,
    )


async def _nobody(_request: Request[Any, Any, Any]) -> None:
    """In the gate's place for what is the same for everybody."""


def with_pages(
    portal: Portal, answer_problem: Callable[[Request[Any, Any, Any], Exception], Response[Any]]
) -> Callable[[Request[Any, Any, Any], Exception], Response[Any]]:
    """For addresses that no route has: a page for a browser that lost its way, ``answer_problem`` for everybody else."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        path = request.scope["path"]
        if "text/html" not in request.headers.get("accept", "") or path.startswith(("/v1/", "/api/")):
            return answer_problem(request, error)
        response = error_page(portal, request, error)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer


_SENTENCES = {
    403: ("Not allowed", "You may not do this."),
    404: ("Not found", "There is nothing at this address, or nothing that you may see."),
    405: ("Not possible", "This address cannot be used in that way."),
    421: (
        "Wrong host name",
        "This Relay does not answer to the host name in your browser's address bar. Open it by the name in RELAY_API_URL. An"
        " operator can allow further names with PORTAL_HOSTS.",
    ),
    413: ("Too large", "What was sent is larger than any form here."),
    502: ("LiveKit does not answer", "LiveKit cannot be asked at the moment. Try again shortly."),
    503: ("Not available", "The database cannot be reached at the moment. Try again shortly."),
}


def error_page(portal: Portal, request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """An error in plain words. What went wrong inside is only in the log, by the request's id."""
    identifier = request_id.get() or ""
    status, detail = 500, ""
    if isinstance(error, HTTPException):
        status = error.status_code
        detail = error.detail if status in (400, 403) else ""
    elif isinstance(error, (TooBusy, StoreUnavailable)):
        status, detail = 503, str(error)
    elif isinstance(error, LiveKitError):
        status, detail = 502, str(error)
    elif isinstance(error, RelayError):
        status, detail = 400, str(error)
    elif isinstance(error, (*UNAVAILABLE, asyncpg.PostgresError)):
        status = 503
    if status >= 500 and not isinstance(error, RelayError):
        log.error("request %s failed", identifier, exc_info=error)
    title, sentence = _SENTENCES.get(status, ("Something went wrong", "It is noted in our log with the number below."))
    text = portal.templates.get_template("error.html").render(
        visit=None,
        notice=None,
        title=title,
        sentence=f"{detail[:1].upper()}{detail[1:]}." if detail else sentence,
        status=status,
        request_id=identifier,
        now_ms=portal.clock.now_ms(),
    )
    headers = {"retry-after": "5"} if status == 503 else {}
    return Response(text, status_code=status, media_type="text/html", headers=headers)
