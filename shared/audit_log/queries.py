"""Who did what, in the portal and on the command line."""

from datetime import datetime

from shared.infra.postgres.pool import Connection
from shared.models.accounts import LogEntry


async def insert_entry(
    conn: Connection,
    now: datetime,
    *,
    account_id: str | None,
    actor: str,
    project_id: str | None,
    action: str,
    target: str,
    detail: str,
) -> int:
    """The id of the new entry. Postgres stores no NUL: a name that holds one is shown with a replacement character."""
    entry_id: int = await conn.fetchval(
        """
        INSERT INTO audit_log (at, account_id, actor, project_id, action, target, detail)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        RETURNING id
        """,
        now,
        account_id,
        actor,
        project_id,
        action,
        target.replace("\0", "\ufffd"),
        detail.replace("\0", "\ufffd"),
    )
    return entry_id


async def set_outcome(conn: Connection, entry_id: int, action: str, detail: str) -> None:
    """Writes into the entry of an act how it went."""
    await conn.execute(
        """
        UPDATE audit_log
        SET action = $2, detail = $3
        WHERE id = $1
        """,
        entry_id,
        action,
        detail.replace("\0", "\ufffd"),
    )


async def entries(conn: Connection, project_id: str | None, before: int | None, limit: int) -> list[LogEntry]:
    """Newest first; of one project, or with None of the whole instance. ``before`` continues after an entry's id."""
    rows = await conn.fetch(
        """
        SELECT id, at, actor, project_id, action, target, detail
        FROM audit_log
        WHERE ($1::text IS NULL OR project_id = $1)
          AND ($2::bigint IS NULL OR id < $2)
        ORDER BY id DESC
        LIMIT $3
        """,
        project_id,
        before,
        limit,
    )
    return [LogEntry(*row) for row in rows]


async def was_done(conn: Connection, project_id: str, action: str) -> bool:
    """Whether somebody has ever done this in the project."""
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT FROM audit_log WHERE project_id = $1 AND action = $2)", project_id, action
        )
    )
