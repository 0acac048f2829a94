"""SQL of requests with an Idempotency-Key, and of their answers."""

from typing import Final

from shared.infra.clock import DAY_MS
from shared.infra.postgres.pool import Connection
from shared.models.idempotency import Attempt, Earlier

# How long the answer to a request is kept.
KEPT_MS: Final = DAY_MS
_ONE = "project_id = $1 AND mode = $2 AND endpoint = $3 AND key_digest = $4"


def _key(attempt: Attempt) -> tuple[str, str, str, bytes]:
    return attempt.project_id, attempt.mode, attempt.endpoint, attempt.key_digest


async def begin(conn: Connection, attempt: Attempt, now_ms: int, *, forgotten_ms: int, abandoned_ms: int) -> bool:
    """Record the start of an attempt. Returns whether the caller may carry it out.

    That is so for the first attempt. It is also so if the earlier one began before ``forgotten_ms``, or began before
    ``abandoned_ms`` and never ended.
    """
    begun = await conn.fetchval(
        """
        INSERT INTO attempt AS known (project_id, mode, endpoint, key_digest, request_digest, started_ms)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (project_id, mode, endpoint, key_digest)
        DO UPDATE SET
            request_digest = EXCLUDED.request_digest,
            started_ms = EXCLUDED.started_ms,
            status = NULL,
            body = NULL,
            shown_once = NULL
        WHERE known.started_ms < $7
           OR (known.status IS NULL AND known.started_ms < $8)
        RETURNING true
        """,
        *_key(attempt),
        attempt.request_digest,
        now_ms,
        forgotten_ms,
        abandoned_ms,
    )
    return begun is True


async def earlier(conn: Connection, attempt: Attempt) -> Earlier | None:
    """Return the earlier attempt with the same key."""
    row = await conn.fetchrow(
        f"SELECT request_digest, status, body, shown_once FROM attempt WHERE {_ONE}", *_key(attempt)
    )
    return None if row is None else Earlier(*row)


async def end(
    conn: Connection, attempt: Attempt, started_ms: int, status: int, body: bytes | None, shown_once: str | None
) -> None:
    """Store the answer, unless another attempt has replaced this one."""
    await conn.execute(
        f"""
        UPDATE attempt
        SET status = $6, body = $7, shown_once = $8
        WHERE {_ONE}
          AND started_ms = $5
          AND status IS NULL
        """,
        *_key(attempt),
        started_ms,
        status,
        body,
        shown_once,
    )


async def give_up(conn: Connection, attempt: Attempt, started_ms: int) -> None:
    """Delete an attempt without an answer, so that it can be repeated."""
    await conn.execute(
        f"DELETE FROM attempt WHERE {_ONE} AND started_ms = $5 AND status IS NULL", *_key(attempt), started_ms
    )


async def forget(conn: Connection, before_ms: int, limit: int) -> int:
    """Delete up to ``limit`` attempts that began before ``before_ms``, and return their number."""
    deleted = await conn.fetch(
        """
        DELETE FROM attempt
        WHERE (project_id, mode, endpoint, key_digest) IN (
            SELECT project_id, mode, endpoint, key_digest
            FROM attempt
            WHERE started_ms < $1
            ORDER BY started_ms
            LIMIT $2
        )
        RETURNING 1
        """,
        before_ms,
        limit,
    )
    return len(deleted)
