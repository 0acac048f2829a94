"""Errors as RFC 9457 ``application/problem+json``: the one place that maps facts to HTTP."""

from typing import Any, NamedTuple

import msgspec

from shared import metrics
from shared.errors import (
    EventNotKept,
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
    RelayError,
    RoomNotFound,
    StoreUnavailable,
    TooManyKeys,
    TrackNotFound,
    Unauthenticated,
    WebhookRefused,
)

_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Content too large",
    415: "Unsupported media type",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}
RETRY_AFTER_S = 2


class PayloadTooLarge(RelayError):
    """A body above the limit of its route (bytes)."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class Problem(NamedTuple):
    """An error ready to be sent."""

    status: int
    code: str
    detail: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self, request_id: str) -> bytes:
        metrics.problems.labels(self.code).inc()
        fields: dict[str, Any] = {
            "type": "about:blank",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.param is not None:
            fields["param"] = self.param
        fields["requestId"] = request_id
        return msgspec.json.encode(fields)


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
        case PayloadTooLarge():
            return Problem(413, "payload_too_large", str(error))
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
    return Problem(500, "internal_error", "something went wrong on our side; the request id finds it in the logs")
