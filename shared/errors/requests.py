"""Errors of a request: its form, size, rate or repetition."""

from shared.errors.base import RETRY_AFTER_S, Code, RelayError


class InvalidRequest(RelayError):
    """The client's input is wrong. ``param`` is the dotted path of the field, as in the JSON sent."""

    status = 400
    codes = (
        Code(
            "invalid_request",
            "A value has the wrong type, form or size. `param` names it.",
            "`ttl`: expected `int` >= 1.",
            "ttl",
        ),
        Code("invalid_json", "The body is not JSON.", "The body is not valid JSON: input data was truncated."),
        Code("missing_field", "A required field is missing. `param` names it.", "`identity` is required.", "identity"),
        Code(
            "unknown_field",
            "Relay does not know this field or query parameter. `param` names it.",
            "`grants.canPubish` is not a field of this request. Leave it out.",
            "grants.canPubish",
        ),
        Code(
            "range_too_long",
            "The range has more days than one request may ask for.",
            "`granularity=hour` accepts at most 31 days. Request a shorter range.",
            "from",
        ),
        Code(
            "too_many_groups",
            "The range holds more rooms or identities than Relay sorts by minutes.",
            "This range holds too many room days to sort by minutes. Request a shorter range, or use `order=name`.",
            "order",
        ),
        Code(
            "invalid_cursor",
            "The cursor does not belong to this request.",
            "`cursor` belongs to another request. Start again without it.",
            "cursor",
        ),
    )

    def __init__(self, detail: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(detail, param=param, code=code)


class MalformedRequest(RelayError):
    """The bytes are not a valid HTTP request."""

    status = 400
    codes = (
        Code(
            "malformed_request",
            "Malformed HTTP request. Relay closes the connection.",
            "Malformed HTTP request.",
        ),
    )

    def __init__(self) -> None:
        super().__init__("Malformed HTTP request.")


class RequestTimedOut(RelayError):
    """The request did not arrive in time. ``allowed_s``: seconds it may take."""

    status = 408
    codes = (
        Code(
            "request_timeout",
            "The request did not arrive in time. Relay closes the connection.",
            "The request did not arrive within 30 s.",
        ),
    )

    def __init__(self, allowed_s: float) -> None:
        super().__init__(f"The request did not arrive within {allowed_s:.0f} s.")


class HeadersTooLarge(RelayError):
    """The headers are larger than ``limit`` bytes."""

    status = 431
    codes = (
        Code(
            "headers_too_large",
            "The headers are too large. Relay closes the connection.",
            "The headers are larger than 65536 bytes.",
        ),
    )

    def __init__(self, limit: int) -> None:
        super().__init__(f"The headers are larger than {limit} bytes.")


class AddressNotFound(RelayError):
    """No route has this path."""

    status = 404
    codes = (Code("not_found", "Nothing exists at this address.", "Nothing exists at this address."),)

    def __init__(self) -> None:
        super().__init__("Nothing exists at this address.")


class MethodNotAllowed(RelayError):
    """The route has other methods. ``allowed`` are in the order of the `Allow` header."""

    status = 405
    codes = (
        Code(
            "method_not_allowed",
            "The address takes other methods. `Allow` lists them.",
            "This address takes only POST.",
        ),
    )

    def __init__(self, allowed: list[str]) -> None:
        names = ", ".join(allowed)
        super().__init__(f"This address takes only {names}.", headers=(("allow", names),))


class PayloadTooLarge(RelayError):
    """The body is larger than its route allows. ``limit``: bytes, if the route has its own limit."""

    status = 413
    codes = (Code("payload_too_large", "The body is too large.", "The body is larger than 262144 bytes."),)

    def __init__(self, limit: int | None = None) -> None:
        detail = "The body is too large." if limit is None else f"The body is larger than {limit} bytes."
        super().__init__(detail, headers=(("connection", "close"),))


class TooManyBodies(RelayError):
    """The requests that are being received already hold the allowed memory."""

    status = 503
    codes = (
        Code(
            "too_many_bodies",
            "Relay receives too many requests at once. Try again.",
            "Relay receives too many requests at once. Send this one again.",
        ),
    )

    def __init__(self) -> None:
        super().__init__(
            "Relay receives too many requests at once. Send this one again.",
            headers=(("retry-after", str(RETRY_AFTER_S)),),
        )


class UnsupportedMediaType(RelayError):
    """The body has a media type that its route does not accept."""

    status = 415
    codes = (
        Code(
            "unsupported_media_type",
            "Relay does not read bodies of this type here.",
            "Send the body as `Content-Type: application/json`.",
        ),
    )

    def __init__(self, expected: str) -> None:
        super().__init__(f"Send the body as `Content-Type: {expected}`.")


class IdempotencyKeyReused(RelayError):
    """The Idempotency-Key was used before with another request."""

    status = 422
    codes = (
        Code(
            "idempotency_key_reused",
            "The `Idempotency-Key` was used for another request.",
            "This Idempotency-Key was used for another request. Send a new request with a new key.",
            "Idempotency-Key",
        ),
    )

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for another request. Send a new request with a new key.",
            param="Idempotency-Key",
        )


class AttemptUnderWay(RelayError):
    """A request with this Idempotency-Key is running."""

    status = 409
    codes = (
        Code(
            "attempt_under_way",
            "A request with this `Idempotency-Key` is still running.",
            "A request with this Idempotency-Key is still running. Repeat it in a moment.",
        ),
    )

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still running. Repeat it in a moment.",
            headers=(("retry-after", "1"),),
        )


class ShownOnce(RelayError):
    """The request with this Idempotency-Key created ``what``. Its answer held a secret that is not stored."""

    status = 409
    codes = (
        Code(
            "shown_once",
            "The request with this `Idempotency-Key` succeeded. Relay does not store the secret in its answer.",
            "This request succeeded before and created key 'h7q2m9x4k8t6w3na'. Only that answer held the secret. If you"
            " do not have it, revoke the key and create another one.",
        ),
    )

    def __init__(self, what: str) -> None:
        super().__init__(
            f"This request succeeded before and created {what}. Only that answer held the secret. If you do not have it,"
            " revoke the key and create another one."
        )


class RateLimited(RelayError):
    """Too many requests. ``retry_after_s``: seconds to wait."""

    status = 429
    codes = (
        Code(
            "rate_limited",
            "The key or its project made more requests in a minute than it may. `Retry-After` says how long to wait.",
            "More than 3000 requests in a minute. Try again in 12 s.",
        ),
        Code(
            "too_many_unknown_keys",
            "This address sent too many keys that do not exist. `Retry-After` says how long to wait.",
            "Your address sent too many keys that do not exist. Wait a moment.",
        ),
    )

    def __init__(
        self,
        detail: str,
        retry_after_s: int,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        code: str = "rate_limited",
    ) -> None:
        shown = tuple((name.decode(), value.decode()) for name, value in headers)
        super().__init__(detail, code=code, headers=(("retry-after", str(retry_after_s)), *shown))
        self.retry_after_s, self.limit_headers = retry_after_s, headers
