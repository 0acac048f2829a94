"""Carry out a creating request once, even if the client repeats it with the same `Idempotency-Key`.

Answers are stored in Postgres, not in Redis: an answer is committed together with what it created, and the guarantee holds
while Redis is down. Only successes are stored. A failed request changed nothing and can be repeated with the same key.
"""

import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final, TypeVar, cast

import asyncpg
import msgspec
from litestar import Request, Response

from shared.errors import AttemptUnderWay, IdempotencyKeyReused, InvalidRequest, ShownOnce, StoreUnavailable
from shared.idempotency import queries
from shared.infra.clock import MINUTE_MS
from shared.infra.ids import Mode
from shared.infra.postgres.pool import UNAVAILABLE, Connection, Pool, borrowed, in_transaction
from shared.models.idempotency import Attempt, Earlier

log = logging.getLogger("relay.api")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEPT_MS = queries.KEPT_MS
# Longer than any request may take, so the process of an older attempt has died.
ABANDONED_MS = MINUTE_MS
_MAX_LENGTH = 255

# Arguments of ``described`` for a route that takes the header.
IDEMPOTENT: Final[dict[str, Any]] = {
    "request_headers": {
        HEADER: {
            "description": "Up to 255 characters of your choice, such as a UUID. If you repeat a request with the same key"
            " within 24 hours, Relay does not carry it out again and returns the first answer.",
            "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_LENGTH, "pattern": "^[ -~]+$"},
        }
    },
    "answer_headers": {
        REPLAYED: "`true` if this is the stored answer to an earlier request with this `Idempotency-Key`."
    },
}
IDEMPOTENT_ERRORS: Final = ("attempt_under_way", "idempotency_key_reused")

_STORE_ERRORS = (*UNAVAILABLE, asyncpg.PostgresError)

T = TypeVar("T", bound=msgspec.Struct)


def attempt_of(
    request: Request[Any, Any, Any], project_id: str, mode: Mode, data: msgspec.Struct | None
) -> Attempt | None:
    """Return the attempt that the header of a request describes, or None without it.

    Raises ``InvalidRequest``. Decoded bodies are compared: spaces and the order of fields do not matter.
    """
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not (0 < len(given) <= _MAX_LENGTH and given.isascii() and given.isprintable()):
        raise InvalidRequest(f"`{HEADER}` must be 1 to {_MAX_LENGTH} printable ASCII characters.", HEADER)
    return Attempt(
        project_id=project_id,
        mode=mode,
        endpoint=f"{request.method} {request.url.path}",
        key_digest=sha256(given.encode()).digest(),
        request_digest=sha256(msgspec.json.encode(data, order="deterministic")).digest(),
    )


async def once(pool: Pool, attempt: Attempt | None, now_ms: int, perform: Callable[[], Awaitable[T]]) -> Response[T]:
    """Carry out ``perform``, or return the answer of the earlier attempt.

    ``perform`` creates something outside Postgres. If the process dies meanwhile, a repeated request calls ``perform`` again
    after a minute, so it must be safe to call twice.

    Raises what ``perform`` raises, ``IdempotencyKeyReused``, ``AttemptUnderWay``, ``StoreUnavailable``.
    """
    if attempt is None:
        return Response(await perform(), status_code=201)
    replay: Response[T] | None = await _begin(pool, attempt, now_ms)
    if replay is not None:
        return replay
    try:
        made = await perform()
    except Exception:
        await _give_up(pool, attempt, now_ms)
        raise
    try:
        async with borrowed(pool) as conn:
            await queries.end(conn, attempt, now_ms, 201, msgspec.json.encode(made), None)
    except _STORE_ERRORS as error:
        log.warning("idempotency: the answer to %s was not stored (%s)", attempt.endpoint, type(error).__name__)
    return Response(made, status_code=201)


async def once_committed(
    pool: Pool,
    attempt: Attempt | None,
    now_ms: int,
    perform: Callable[[Connection], Awaitable[T]],
    shown_once: Callable[[T], str] | None = None,
) -> Response[T]:
    """Carry out ``perform`` and store its answer in one transaction, or return the earlier answer.

    An answer that holds a secret is not stored. ``shown_once`` then names what was created, such as "key k3v9", for
    ``ShownOnce``.

    Raises what ``perform`` raises, ``IdempotencyKeyReused``, ``AttemptUnderWay``, ``ShownOnce``, ``StoreUnavailable``.
    """
    if attempt is not None:
        replay: Response[T] | None = await _begin(pool, attempt, now_ms)
        if replay is not None:
            return replay
    try:
        async with borrowed(pool) as conn, in_transaction(conn):
            made = await perform(conn)
            if attempt is not None:
                body = None if shown_once else msgspec.json.encode(made)
                await queries.end(conn, attempt, now_ms, 201, body, shown_once and shown_once(made))
    except Exception as error:
        # The connection is back in the pool here. If every failed request held one connection while it waited for another, the
        # pool could deadlock. A commit with an unknown outcome is safe: an attempt with a stored answer is not given up.
        if attempt is not None:
            await _give_up(pool, attempt, now_ms)
        if isinstance(error, _STORE_ERRORS):
            raise _unavailable() from error
        raise
    return Response(made, status_code=201)


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("Relay cannot reach Postgres, so it created nothing. Try again shortly.")


async def _begin(pool: Pool, attempt: Attempt, now_ms: int) -> Response[T] | None:
    """Return the earlier answer, or None if the attempt must be carried out now."""
    forgotten_ms, abandoned_ms = now_ms - KEPT_MS, now_ms - ABANDONED_MS
    try:
        async with borrowed(pool) as conn:
            for _ in range(3):  # again only if the row disappeared between the two statements
                if await queries.begin(conn, attempt, now_ms, forgotten_ms=forgotten_ms, abandoned_ms=abandoned_ms):
                    return None
                earlier = await queries.earlier(conn, attempt)
                if earlier is not None:
                    return _replayed(attempt, earlier)
    except _STORE_ERRORS as error:
        raise _unavailable() from error
    raise AttemptUnderWay


def _replayed(attempt: Attempt, earlier: Earlier) -> Response[T]:
    if earlier.request_digest != attempt.request_digest:
        raise IdempotencyKeyReused
    if earlier.status is None:
        raise AttemptUnderWay
    if earlier.shown_once is not None:
        raise ShownOnce(earlier.shown_once)
    return Response(
        cast("T", earlier.body), status_code=earlier.status, media_type="application/json", headers={REPLAYED: "true"}
    )


async def _give_up(pool: Pool, attempt: Attempt, now_ms: int) -> None:
    try:
        async with borrowed(pool) as conn:
            await queries.give_up(conn, attempt, now_ms)
    except _STORE_ERRORS:
        log.warning(
            "idempotency: %s can be repeated with its key only after a minute, because Postgres is unreachable",
            attempt.endpoint,
        )
