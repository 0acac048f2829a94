"""Errors of webhooks, the meter and the store."""

from shared.errors.base import RETRY_AFTER_S, Code, RelayError


class WebhookRefused(RelayError):
    """A webhook whose signature does not prove that LiveKit sent this body.

    ``code`` says why. ``signs_probe``: the signature belongs to the body that `relay doctor` sends.
    """

    status = 401
    codes = (
        Code(
            "no_secret",
            "This instance has no `LIVEKIT_API_SECRET`.",
            "This instance has no LiveKit secret to verify with.",
        ),
        Code(
            "missing_signature",
            "The webhook has no `Authorization` header.",
            "The webhook has no signature.",
        ),
        Code(
            "malformed_signature",
            "The header is not a JWT as LiveKit sends it.",
            "The Authorization header is not a JWT.",
        ),
        Code(
            "bad_signature",
            "The signature was made with another secret than `LIVEKIT_API_SECRET`.",
            "The signature does not match the secret.",
        ),
        Code(
            "wrong_api_key",
            "`webhook.api_key` in livekit.yaml is not `LIVEKIT_API_KEY`.",
            "The signature was made with another API key.",
        ),
        Code("expired", "The signature has expired, or the clocks differ.", "The signature has expired."),
        Code("not_yet_valid", "The clocks of LiveKit and Relay differ.", "The signature is not valid yet."),
        Code(
            "body_mismatch",
            "Something between LiveKit and Relay changed the body.",
            "The signature belongs to another body.",
        ),
    )

    def __init__(self, code: str, detail: str, *, signs_probe: bool = False) -> None:
        super().__init__(detail, code=code)
        self.signs_probe = signs_probe


class EventNotKept(RelayError):
    """Neither Redis nor Postgres could take an event. LiveKit must send it again."""

    status = 503
    codes = (
        Code(
            "event_not_kept",
            "Relay could not store a webhook. LiveKit sends it again.",
            "The event could not be stored. Send it again.",
        ),
    )

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers=(("retry-after", str(RETRY_AFTER_S)),))


class StoreUnavailable(RelayError):
    """Relay cannot reach Postgres. The request may be repeated."""

    status = 503
    codes = (
        Code(
            "store_unavailable",
            "Relay cannot reach Postgres. Try again.",
            "API keys cannot be checked at the moment. Try again shortly.",
        ),
    )

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers=(("retry-after", str(RETRY_AFTER_S)),))


class UnfoldableEvent(RelayError):
    """The meter cannot use an event that LiveKit signed. ``reason`` is snake_case and stable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ConcurrentFold(RelayError):
    """Another transaction stored one of these sessions or rooms first. Repeat the whole batch."""

    def __init__(self) -> None:
        super().__init__("Another transaction stored a session or room of this batch first.")


class SetAsideEventNotFound(RelayError):
    """No event with this id is set aside."""

    def __init__(self, event_id: int) -> None:
        super().__init__(f"No event {event_id} is set aside. It may have been replayed or dismissed.")
        self.event_id = event_id


class SessionNotFound(RelayError):
    """The project has no metered session of this participant sid, in this mode."""

    status = 404
    codes = (
        Code(
            "session_not_found",
            "The project has no metered session of this participant sid, in this mode.",
            "No session has the participant sid 'PA_x'.",
        ),
    )

    def __init__(self, sid: str) -> None:
        super().__init__(f"No session has the participant sid {sid[:100]!r}.")
        self.sid = sid
