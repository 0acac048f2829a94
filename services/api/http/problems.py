"""Turn errors into RFC 9457 ``application/problem+json``.

The error classes carry status and code (shared/errors).
"""

import logging
import re
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from services.api.http.decoding import NO_BODY, is_required
from services.api.http.problem_codes import InternalError
from shared.errors import (
    AddressNotFound,
    InvalidRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    RelayError,
)
from shared.infra import metrics
from shared.infra.logs import request_id
from shared.models.wire import Wire

log = logging.getLogger("relay.api")

MEDIA_TYPE: Final = "application/problem+json"
TITLES: Final = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    412: "Precondition failed",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    431: "Request header fields too large",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}


class ProblemDetails(Wire):
    """An error (RFC 9457)."""

    type: Annotated[
        str, msgspec.Meta(description="Always `about:blank`. Read `code` instead.", examples=["about:blank"])
    ]
    title: Annotated[str, msgspec.Meta(description="HTTP status in words.")]
    status: Annotated[int, msgspec.Meta(ge=400, le=599, description="HTTP status of the answer.")]
    detail: Annotated[str, msgspec.Meta(description="What is wrong and what to do. The wording may change.")]
    code: Annotated[
        str,
        msgspec.Meta(description="Stable code of the error. Programs should read this field.", pattern="^[a-z0-9_]+$"),
    ]
    request_id: Annotated[
        str,
        msgspec.Meta(
            description="Id of the request, as in the log and in `X-Request-Id`.", pattern="^req_[0-9a-f]{18}$"
        ),
    ]
    param: (
        Annotated[str, msgspec.Meta(description="The field or parameter that is wrong, as a dotted path.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Problem(NamedTuple):
    """An error ready to be sent."""

    status: int
    code: str
    detail: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        metrics.problems.labels(self.code).inc()
        return msgspec.json.encode(
            ProblemDetails(
                type="about:blank",
                title=TITLES[self.status],
                status=self.status,
                detail=self.detail,
                code=self.code,
                param=msgspec.UNSET if self.param is None else self.param,
                request_id=request_id.get() or "",
            )
        )


def problem_of(error: Exception) -> Problem:
    """Return the problem for an exception. One that is not a ``RelayError`` becomes a 500 without details."""
    if isinstance(error, HTTPException):
        error = _error_of_framework(error)
    if not isinstance(error, RelayError) or not error.codes:
        error = InternalError()
    return Problem(error.status, error.code, str(error), error.param, error.headers)


def _error_of_framework(error: HTTPException) -> RelayError:
    """Return Relay's error for a request that Litestar refuses.

    That is an unknown path or method, a body that is too large, or a wrong parameter.
    """
    if isinstance(error, ValidationException):
        return _error_of_parameter(error)
    match error.status_code:
        case 404:
            return AddressNotFound()
        case 405:
            allow = ",".join(value for name, value in (error.headers or {}).items() if name.lower() == "allow")
            return MethodNotAllowed(sorted({method.strip() for method in allow.split(",")}))
        case 413:
            return PayloadTooLarge()
        case status if status >= 500:
            return InternalError()
    return InvalidRequest(error.detail)


def _error_of_parameter(error: ValidationException) -> InvalidRequest:
    """Return the error for a parameter or header that is missing or not what the handler declares."""
    first: Any = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    param, message = first.get("key"), str(first.get("message", ""))
    if param == "data":
        return InvalidRequest(NO_BODY, code="invalid_json")
    if param is None:
        missing = re.search(r"Missing required \w+ parameter '([^']+)'", error.detail)
        if missing is not None:
            return is_required(missing[1])
        return InvalidRequest("A parameter of this request is wrong.")
    return InvalidRequest(f"`{param}`: {message[:1].lower()}{message[1:]}", param)


def answer_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer an exception. This is the framework's exception handler."""
    problem = problem_of(error)
    if problem.status == 500:
        log.error("request %s failed", request_id.get(), exc_info=error)
    return Response(problem.body(), status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(problem.headers))
