"""Errors as RFC 9457 ``application/problem+json``: the one place that maps facts to HTTP. ``problem_codes`` lists the codes."""

import logging
import re
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from services.api.decoding import NO_BODY
from services.api.problem_codes import CODES
from shared import metrics
from shared.errors import (
    AttemptUnderWay,
    EventNotKept,
    IdempotencyKeyReused,
    InvalidRequest,
    KeyInactive,
    KeyNotFound,
    KeyRotated,
    LiveKitCredentialsRefused,
    LiveKitFailed,
    LiveKitRefusedInput,
    LiveKitRefusedState,
    LiveKitTimedOut,
    LiveKitUnreachable,
    ParticipantNotFound,
    ProjectArchived,
    PublishableKeyRefused,
    RateLimited,
    RelayError,
    RoomNotFound,
    SessionNotFound,
    ShownOnce,
    StoreUnavailable,
    TooManyKeys,
    TrackNotFound,
    Unauthenticated,
    WebhookRefused,
)
from shared.logs import request_id
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
RETRY_AFTER_S = 2
# What the framework refuses by itself. Anything else of its 4xx is a 400.
_FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
_INTERNAL = "something went wrong on our side; the request id finds it in the logs"


class PayloadTooLarge(RelayError):
    """A body above the limit of its route (bytes)."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class UnsupportedMediaType(RelayError):
    """A body of a type that its route does not read."""

    def __init__(self, expected: str) -> None:
        super().__init__(f"send the body as `Content-Type: {expected}`")


class ProblemDetails(Wire):
    """An error (RFC 9457)."""

    type: Annotated[str, msgspec.Meta(description="Always `about:blank`: `code` tells.", examples=["about:blank"])]
    title: Annotated[str, msgspec.Meta(description="The status in words.")]
    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    detail: Annotated[str, msgspec.Meta(description="What is wrong, for people.")]
    code: Annotated[str, msgspec.Meta(description="What is wrong, for programs. Stable.", pattern="^[a-z0-9_]+$")]
    request_id: Annotated[str, msgspec.Meta(description="Finds the request in the log.", pattern="^req_[0-9a-f]{18}$")]
    param: (
        Annotated[str, msgspec.Meta(description="The field or parameter to blame, as a dotted path.")]
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
    """The answer to an exception; anything that is not one of our facts is a 500 that tells nothing of itself."""
    match error:
        case InvalidRequest():
            return Problem(400, error.code, str(error), error.param)
        case Unauthenticated():
            return Problem(401, error.code, str(error), headers=(("www-authenticate", 'Bearer realm="relay"'),))
        case WebhookRefused():
            return Problem(401, error.reason, str(error))
        case PublishableKeyRefused():
            return Problem(403, "publishable_key", str(error))
        case RoomNotFound():
            return Problem(404, "room_not_found", str(error))
        case ParticipantNotFound():
            return Problem(404, "participant_not_found", str(error))
        case SessionNotFound():
            return Problem(404, "session_not_found", str(error))
        case TrackNotFound():
            return Problem(404, "track_not_found", str(error))
        case KeyNotFound():
            return Problem(404, "key_not_found", str(error))
        case KeyInactive():
            return Problem(409, "key_inactive", str(error))
        case KeyRotated():
            return Problem(409, "key_already_rotated", str(error))
        case TooManyKeys():
            return Problem(409, "too_many_keys", str(error))
        case ProjectArchived():
            return Problem(409, "project_archived", str(error))
        case IdempotencyKeyReused():
            return Problem(422, "idempotency_key_reused", str(error), "Idempotency-Key")
        case AttemptUnderWay():
            return Problem(409, "attempt_under_way", str(error), headers=(("retry-after", "1"),))
        case ShownOnce():
            return Problem(409, "shown_once", str(error))
        case PayloadTooLarge():
            return Problem(413, "payload_too_large", str(error), headers=(("connection", "close"),))
        case UnsupportedMediaType():
            return Problem(415, "unsupported_media_type", str(error))
        case RateLimited():
            shown = tuple((name.decode(), value.decode()) for name, value in error.headers)
            return Problem(429, error.code, str(error), headers=(("retry-after", str(error.retry_after_s)), *shown))
        case EventNotKept():
            return Problem(503, "event_not_kept", str(error), headers=(("retry-after", str(RETRY_AFTER_S)),))
        case StoreUnavailable():
            return Problem(503, "store_unavailable", str(error), headers=(("retry-after", str(RETRY_AFTER_S)),))
        case LiveKitRefusedInput():
            return Problem(400, "livekit_refused", str(error), error.param)
        case LiveKitRefusedState():
            return Problem(409, "livekit_conflict", str(error))
        case LiveKitUnreachable():
            return Problem(502, "livekit_unreachable", str(error))
        case LiveKitCredentialsRefused():
            return Problem(502, "livekit_credentials", str(error))
        case LiveKitFailed():
            return Problem(502, "livekit_failed", str(error))
        case LiveKitTimedOut():
            return Problem(504, "livekit_timeout", str(error))
        case HTTPException():
            return _problem_of_framework(error)
    return Problem(500, "internal_error", _INTERNAL)


def _problem_of_framework(error: HTTPException) -> Problem:
    """What Litestar answers itself: no such path or method, a body that is too large, a parameter of the wrong type."""
    if isinstance(error, ValidationException):
        return _problem_of_parameter(error)
    status = error.status_code
    if status >= 500:
        return Problem(500, "internal_error", _INTERNAL)
    code = _FRAMEWORK_CODES.get(status)
    if code is None:
        return Problem(400, "invalid_request", error.detail)
    headers = tuple((name, value) for name, value in (error.headers or {}).items() if name.lower() == "allow")
    if status == 405:
        allowed = sorted({method.strip() for _, value in headers for method in value.split(",")})
        detail = f"only {', '.join(allowed)} are known here" if len(allowed) > 1 else f"only {allowed[0]} is known here"
        return Problem(405, code, detail, headers=(("allow", ", ".join(allowed)),))
    if status == 413:
        return Problem(413, code, "the body is too large", headers=(("connection", "close"),))
    return Problem(status, code, CODES[code].detail)


def _problem_of_parameter(error: ValidationException) -> Problem:
    """A path or query parameter (or a header) that is missing or not what its handler declares."""
    first: Any = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    param, message = first.get("key"), str(first.get("message", ""))
    if param == "data":
        return Problem(400, "invalid_json", NO_BODY)
    if param is None:
        missing = re.search(r"Missing required \w+ parameter '([^']+)'", error.detail)
        if missing is not None:
            return Problem(400, "missing_field", f"{missing[1]} is required", missing[1])
        return Problem(400, "invalid_request", "a parameter of this request is wrong")
    return Problem(400, "invalid_request", f"{param}: {message[:1].lower()}{message[1:]}", param)


def answer_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The framework's exception handler."""
    problem = problem_of(error)
    if problem.status == 500:
        log.error("request %s failed", request_id.get(), exc_info=error)
    return Response(problem.body(), status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(problem.headers))
