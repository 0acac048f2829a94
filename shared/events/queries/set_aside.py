"""SQL of set-aside events, which the meter could not use. They can be replayed or dismissed."""

from collections.abc import Sequence

from shared.infra.postgres.pool import Connection
from shared.models.set_aside import SetAsideEvent

_COLUMNS = "id, received_at, reason, detail, body"


async def count_set_aside(conn: Connection) -> dict[str, int]:
    """Count the set-aside events by reason."""
    rows = await conn.fetch("SELECT reason, count(*) AS n FROM set_aside_event GROUP BY reason ORDER BY reason")
    return {row["reason"]: row["n"] for row in rows}


async def page_of_set_aside(
    conn: Connection, *, reason: str | None = None, before_id: int | None = None, limit: int = 50
) -> list[SetAsideEvent]:
    """Return a page of set-aside events, newest first.

    ``before_id``: the last id of the previous page. New events do not shift the pages.
    """
    rows = await conn.fetch(
        f"""
        SELECT {_COLUMNS}
        FROM set_aside_event
        WHERE ($1::text IS NULL OR reason = $1)
          AND ($2::bigint IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        """,
        reason,
        before_id,
        limit,
    )
    return [SetAsideEvent(**row) for row in rows]


async def newest_set_aside(conn: Connection) -> int | None:
    """Return the greatest id of a set-aside event, or None."""
    value: int | None = await conn.fetchval("SELECT max(id) FROM set_aside_event")
    return value


async def take_set_aside(conn: Connection, ids: Sequence[int]) -> list[SetAsideEvent]:
    """Remove these events and return those that existed. A concurrent caller waits and gets none of them."""
    rows = await conn.fetch(f"DELETE FROM set_aside_event WHERE id = ANY ($1::bigint[]) RETURNING {_COLUMNS}", ids)
    return sorted((SetAsideEvent(**row) for row in rows), key=lambda event: event.id)


async def take_oldest_set_aside(
    conn: Connection, *, reason: str | None, up_to_id: int, limit: int
) -> list[SetAsideEvent]:
    """Remove and return the oldest events with an id of at most ``up_to_id``.

    Skips events that another transaction is removing.
    """
    rows = await conn.fetch(
        f"""
        DELETE FROM set_aside_event
        WHERE id IN (
            SELECT id
            FROM set_aside_event
            WHERE id <= $1
              AND ($2::text IS NULL OR reason = $2)
            ORDER BY id
            LIMIT $3
            FOR UPDATE SKIP LOCKED
        )
        RETURNING {_COLUMNS}
        """,
        up_to_id,
        reason,
        limit,
    )
    return sorted((SetAsideEvent(**row) for row in rows), key=lambda event: event.id)
