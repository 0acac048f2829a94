"""`Idempotency-Key`: a creating request that is repeated, because its answer was lost, is carried out once.

Kept in Postgres rather than in Redis: what is created there is committed together with its answer, so that no crash can
separate the two, and Redis may be away without a guarantee being lost unnoticed. Only successes are kept: a request that
failed changed nothing that repeating it would double, and can be repeated with the same key.
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
from shared.infra.clock import DAY_MS, MINUTE_MS
from shared.infra.ids import Mode
from shared.infra.postgres.pool import UNAVAILABLE, Connection, Pool, borrowed, in_transaction
from shared.models.idempotency import Attempt, Earlier

log = logging.getLogger("relay.api")

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEPT_MS = DAY_MS
# Its process died: longer than any request may take.
ABANDONED_MS = MINUTE_MS
_MAX_LENGTH = 255

# For ``described`` of a route that uses this.
IDEMPOTENT: Final[dict[str, Any]] = {
    "request_headers": {
        HEADER: {
            "description": "Up to 255 characters of your choice, such as a UUID. A request that comes again with the same key"
            " within 24 hours is not carried out again: it gets the first answer.",
            "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_LENGTH, "pattern": "^[ -~]+$"},
        }
    },
    "answer_headers": {REPLAYED: "`true` if this answer was given before, to the same `Idempotency-Key`."},
}
IDEMPOTENT_ERRORS: Final = ("attempt_under_way", "idempotency_key_reused")

_AWAY = (*UNAVAILABLE, asyncpg.PostgresError)

T = TypeVar("T", bound=msgspec.Struct)


def attempt_of(
    request: Request[Any, Any, Any], project_id: str, mode: Mode, data: msgspec.Struct | None
) -> Attempt | None:
    """None without the header. The body counts as decoded: spaces and the order of fields do not matter. Raises
    ``InvalidRequest``."""
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not (0 < len(given) <= _MAX_LENGTH and given.isascii() and given.isprintable()):
        raise InvalidRequest(f"{HEADER} must be 1 to {_MAX_LENGTH} printable ASCII characters", HEADER)
    return Attempt(
        project_id=project_id,
        mode=mode,
        endpoint=f"{request.method} {request.url.path}",
        key_digest=sha256(given.encode()).digest(),
        request_digest=sha256(msgspec.json.encode(data, order="deterministic")).digest(),
    )


async def once(pool: Pool, attempt: Attempt | None, now_ms: int, perform: Callable[[], Awaitable[T]]) -> Response[T]:
    """Carries out ``perform``, which makes something elsewhere than in Postgres; or repeats the answer of the attempt before.
    Should the process die in the middle, a repetition calls ``perform`` again after a minute: it must bear that.

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
    except _AWAY as error:
        log.warning("the answer to %s could not be kept (%s)", attempt.endpoint, type(error).__name__)
    return Response(made, status_code=201)


async def once_committed(
    pool: Pool,
    attempt: Attempt | None,
    now_ms: int,
    perform: Callable[[Connection], Awaitable[T]],
    shown_once: Callable[[T], str] | None = None,
) -> Response[T]:
    """Carries out ``perform`` and keeps its answer in one transaction, or repeats the answer of the attempt before. An answer
    that holds a secret is not kept: ``shown_once`` then says what was made, such as "key k3v9", for ``ShownOnce``.

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
        # Only now, without the connection: if all that failed held one and waited for a second, none would get it. A commit
        # whose outcome is unknown is safe: an attempt that has its answer is not given up.
        if attempt is not None:
            await _give_up(pool, attempt, now_ms)
        if isinstance(error, _AWAY):
            raise _nothing_made() from error
        raise
    return Response(made, status_code=201)


def _nothing_made() -> StoreUnavailable:
    return StoreUnavailable("nothing can be made at the moment; try again shortly")


async def _begin(pool: Pool, attempt: Attempt, now_ms: int) -> Response[T] | None:
    """None if the attempt is to be carried out now."""
    forgotten_ms, abandoned_ms = now_ms - KEPT_MS, now_ms - ABANDONED_MS
    try:
        async with borrowed(pool) as conn:
            for _ in range(3):  # again only if the row vanished between the two statements
                if await queries.begin(conn, attempt, now_ms, forgotten_ms=forgotten_ms, abandoned_ms=abandoned_ms):
                    return None
                known = await queries.earlier(conn, attempt)
                if known is not None:
                    return _replayed(attempt, known)
    except _AWAY as error:
        raise _nothing_made() from error
    raise AttemptUnderWay


def _replayed(attempt: Attempt, known: Earlier) -> Response[T]:
    if known.request_digest != attempt.request_digest:
        raise IdempotencyKeyReused
    if known.status is None:
        raise AttemptUnderWay
    if known.shown_once is not None:
        raise ShownOnce(known.shown_once)
    return Response(
        cast("T", known.body), status_code=known.status, media_type="application/json", headers={REPLAYED: "true"}
    )


async def _give_up(pool: Pool, attempt: Attempt, now_ms: int) -> None:
    try:
        async with borrowed(pool) as conn:
            await queries.give_up(conn, attempt, now_ms)
    except _AWAY:
        log.warning("%s can be repeated with its key only in a minute: Postgres is away", attempt.endpoint)
