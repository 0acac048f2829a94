"""Every ``code`` an answer can carry: its status, what it means, and a ``detail`` as an example.

The one list behind the OpenAPI document, ``docs/errors.md`` (a test compares them) and the tests, in which an answer with a
code that is not here, or with another status, fails. A code never changes its meaning and is never used again for another.
"""

from typing import Final, NamedTuple


class Code(NamedTuple):
    """``detail`` and ``param`` are an example."""

    status: int
    meaning: str
    detail: str
    param: str | None = None


CODES: Final[dict[str, Code]] = {
    # 400: what was sent
    "invalid_json": Code(400, "The body is not JSON.", "the body is not valid JSON: Input data was truncated"),
    "invalid_request": Code(
        400, "A value has the wrong type, form or size; `param` names it.", "ttl: expected `int` >= 1", "ttl"
    ),
    "malformed_request": Code(
        400, "No valid HTTP request; the connection is closed.", "this is no HTTP request, or not a valid one"
    ),
    "missing_field": Code(400, "A required field is not there; `param` names it.", "identity is required", "identity"),
    "unknown_field": Code(
        400,
        "A field or query parameter that Relay does not know; `param` names it.",
        "grants.canPubish is not a field of this request",
        "grants.canPubish",
    ),
    "range_too_long": Code(
        400, "More days than one request may ask for.", "granularity=hour takes at most 31 days", "from"
    ),
    "too_many_groups": Code(
        400,
        "More rooms or identities than are ordered by minutes at once.",
        "this range holds too many room days to order by minutes; take a shorter one, or order=name",
        "order",
    ),
    "invalid_cursor": Code(
        400,
        "The cursor is none that this request answered with.",
        "cursor is not one that this request answered with",
        "cursor",
    ),
    # 401, 403: who is asking
    "missing_key": Code(
        401, "No `Authorization: Bearer …` header.", "send your API key as `Authorization: Bearer sk_…`"
    ),
    "malformed_key": Code(
        401, "Not an API key of Relay.", "this is no Relay API key: those begin with sk_live_ or sk_test_"
    ),
    "mistyped_key": Code(
        401,
        "A key of the right form whose checksum is wrong.",
        "this API key was mistyped or cut off: its checksum is wrong",
    ),
    "unknown_key": Code(401, "Well-formed, but not a key of this instance.", "no such API key exists here"),
    "revoked_key": Code(401, "The key has been revoked.", "this API key has been revoked"),
    "expired_key": Code(401, "The key's time is over.", "this API key has expired"),
    "archived_project": Code(
        401, "The key's project has been archived.", "the project of this API key has been archived"
    ),
    "publishable_key": Code(
        403,
        "A `pk_…` key names a project and can do nothing else.",
        "a publishable key only names a project; use a secret key (sk_…) from your server",
    ),
    # 401: webhooks
    "no_secret": Code(
        401, "This instance has no `LIVEKIT_API_SECRET`.", "this instance has no LiveKit secret to verify with"
    ),
    "missing_signature": Code(401, "A webhook without an `Authorization` header.", "the webhook carries no signature"),
    "malformed_signature": Code(
        401, "The header is no JWT of the kind LiveKit sends.", "the Authorization header is no JWT"
    ),
    "bad_signature": Code(
        401, "Signed with another secret than `LIVEKIT_API_SECRET`.", "the signature does not match the secret"
    ),
    "wrong_api_key": Code(
        401, "`webhook.api_key` in livekit.yaml is not `LIVEKIT_API_KEY`.", "signed for another API key"
    ),
    "expired": Code(401, "The signature's time is over; or the clocks differ.", "the signature has expired"),
    "not_yet_valid": Code(401, "The clocks of LiveKit and Relay differ.", "the signature is not valid yet"),
    "body_mismatch": Code(
        401, "Something between LiveKit and Relay changed the body.", "the body is not the one that was signed"
    ),
    # 400, 404, 409: what is asked for, or its state
    "livekit_refused": Code(
        400, "LiveKit takes it for invalid, by limits of its own configuration.", "LiveKit takes this for invalid"
    ),
    "room_not_found": Code(404, "No such room is open.", "there is no room 'lobby' at the moment"),
    "participant_not_found": Code(
        404, "Nobody of this identity is in the room.", "there is no participant 'ada' in room 'lobby'"
    ),
    "session_not_found": Code(
        404, "The project has no metered session of this participant sid, in this mode.", "there is no session 'PA_x'"
    ),
    "track_not_found": Code(
        404,
        "The participant publishes no such track.",
        "participant 'ada' in room 'lobby' publishes no track 'TR_AMkzBpT6ZgTqQp'",
    ),
    "key_not_found": Code(404, "The project has no API key of this id.", "there is no key 'h7q2m9x4k8t6w3na'"),
    "key_inactive": Code(
        409, "The key is revoked or expired, and only a working one can do this.", "key 'h7q2m9x4k8t6w3na' is revoked"
    ),
    "key_already_rotated": Code(
        409,
        "The key has been replaced already; rotate its successor.",
        "key 'h7q2m9x4k8t6w3na' was replaced by 'n4t8w2x6q7m3k9ha' already; rotate that one",
    ),
    "too_many_keys": Code(
        409,
        "The project has as many working keys as it may have.",
        "the project has 100 working keys of this mode, which is the most; revoke some first",
    ),
    "project_archived": Code(
        409, "The project is archived: nothing can be added.", "project 'k3v9x2m7q4w8t6na' is archived"
    ),
    "livekit_conflict": Code(
        409, "LiveKit cannot do this as things are, or as it is configured.", "LiveKit cannot do this at the moment"
    ),
    "attempt_under_way": Code(
        409,
        "A request with this `Idempotency-Key` is being carried out.",
        "a request with this Idempotency-Key is still being carried out; repeat it in a moment",
    ),
    "shown_once": Code(
        409,
        "The request with this `Idempotency-Key` succeeded, and the secret in its answer is kept nowhere.",
        "this request was carried out before and made key 'h7q2m9x4k8t6w3na'; its secret was in that answer and is kept"
        " nowhere. If you do not have it, revoke it and make another",
    ),
    "idempotency_key_reused": Code(
        422,
        "The `Idempotency-Key` came before with another request.",
        "this Idempotency-Key was used for another request; a new request needs a new key",
        "Idempotency-Key",
    ),
    # 404 … 415: the request as such
    "not_found": Code(404, "There is nothing at this address.", "there is nothing at this address"),
    "method_not_allowed": Code(405, "The address knows other methods; `Allow` lists them.", "only POST is known here"),
    "payload_too_large": Code(413, "The body is too large.", "the body is larger than 262144 bytes"),
    "unsupported_media_type": Code(
        415, "The body is of a type that is not read here.", "send the body as `Content-Type: application/json`"
    ),
    "request_timeout": Code(
        408, "The request did not arrive in time; the connection is closed.", "the request did not arrive within 30 s"
    ),
    "headers_too_large": Code(
        431, "The headers are too large; the connection is closed.", "the headers are larger than 65536 bytes"
    ),
    # 429: too often
    "rate_limited": Code(
        429,
        "More requests in a minute than the key or its project may make; `Retry-After` says how long to wait.",
        "more than 3000 requests in a minute; try again in 12 s",
    ),
    "too_many_unknown_keys": Code(
        429,
        "Too many keys that do not exist came from this address; `Retry-After` says how long to wait.",
        "too many keys that do not exist came from your address; wait a moment",
    ),
    # 5xx: us, and LiveKit
    "internal_error": Code(500, "Our fault.", "something went wrong on our side; the request id finds it in the logs"),
    "livekit_unreachable": Code(502, "LiveKit cannot be reached.", "LiveKit cannot be reached; try again shortly"),
    "livekit_credentials": Code(
        502,
        "LiveKit refuses this instance's credentials.",
        "LiveKit refuses the credentials of this Relay: its LIVEKIT_API_KEY and LIVEKIT_API_SECRET, or its clock, are not"
        " LiveKit's",
    ),
    "livekit_failed": Code(
        502,
        "LiveKit failed, and gave no reason that concerns the request.",
        "LiveKit could not do this and gave no reason that concerns the request",
    ),
    "livekit_timeout": Code(
        504,
        "LiveKit did not answer in time; the request may have been carried out.",
        "LiveKit did not answer in time; what you asked for may have been done or not",
    ),
    "event_not_kept": Code(
        503, "A webhook could not be stored; LiveKit sends it again.", "the event could not be stored; send it again"
    ),
    "store_unavailable": Code(
        503, "Postgres cannot be reached; try again.", "API keys cannot be checked at the moment; try again shortly"
    ),
}
