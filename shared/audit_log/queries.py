"""SQL of the audit log, which records actions in the portal, over the API and on the command line."""

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
    """Insert an entry and return its id.

    Postgres stores no NUL, so a replacement character takes its place.
    """
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
    """Write the outcome of an action into its entry."""
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
    """Return entries of a project (None: of the whole instance), newest first.

    ``before``: only entries with smaller ids, to continue a list.
    """
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
    """Return whether the action was ever done in the project."""
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT FROM audit_log WHERE project_id = $1 AND action = $2)", project_id, action
        )
    )
