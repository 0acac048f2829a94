"""Render errors as pages, and set the security headers of every answer of the portal."""

import logging
from collections.abc import Callable
from typing import Any, Final

import asyncpg
from litestar import Request, Response
from litestar.exceptions import HTTPException

from services.api.portal.passwords.hashing import TooBusy
from services.api.portal.portal import Portal
from shared.errors import LiveKitError, RelayError, StoreUnavailable
from shared.infra.logs import request_id
from shared.infra.postgres.pool import UNAVAILABLE

log = logging.getLogger("relay.api")

HEADERS: Final = {
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
_ANSWERS: Final = {
    403: ("Not allowed", "You are not allowed to do this."),
    404: ("Not found", "This page does not exist, or you have no access to it."),
    405: ("Not possible", "This address does not accept this kind of request."),
    421: (
        "Wrong host name",
        "This Relay does not answer to the host name in your browser's address bar. Open it by the name in RELAY_API_URL. An"
        " operator can allow more names with PORTAL_HOSTS.",
    ),
    413: ("Too large", "The form is larger than Relay accepts."),
    502: ("LiveKit does not answer", "LiveKit cannot be reached at the moment. Try again shortly."),
    503: ("Not available", "The database cannot be reached at the moment. Try again shortly."),
}
_FAULT = ("Something went wrong", "Relay's log has the details under the number below.")


def add_headers(response: Response[Any], *, secure: bool) -> Response[Any]:
    """Set the headers that every answer of the portal carries.

    ``secure``: the instance is reached by https.
    """
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("cache-control", "no-store")
    if secure:
        response.headers.setdefault("strict-transport-security", _HSTS)
    return response


def with_pages(
    portal: Portal, answer_problem: Callable[[Request[Any, Any, Any], Exception], Response[Any]]
) -> Callable[[Request[Any, Any, Any], Exception], Response[Any]]:
    """Answer paths without a route: browsers get a page, other clients get ``answer_problem``."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        path = request.scope["path"]
        if "text/html" not in request.headers.get("accept", "") or path.startswith(("/v1/", "/api/")):
            return answer_problem(request, error)
        response = error_page(portal, request, error)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer


def error_page(portal: Portal, request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Return an error as a page. The details of a failure are only in the log, with the request id."""
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
    title, sentence = _ANSWERS.get(status, _FAULT)
    text = portal.templates.get_template("error.html").render(
        page=None,
        notice=None,
        title=title,
        sentence=f"{detail[:1].upper()}{detail[1:].rstrip('.')}." if detail else sentence,
        status=status,
        request_id=identifier,
        now_ms=portal.clock.now_ms(),
    )
    headers = {"retry-after": "5"} if status == 503 else {}
    return Response(text, status_code=status, media_type="text/html", headers=headers)
