"""SQL of projects."""

from datetime import datetime

import asyncpg

from shared.infra.postgres.pool import Connection
from shared.models.projects import Project

_COLUMNS = "id, name, created_at, archived_at"


def _project(row: "asyncpg.Record") -> Project:
    return Project(project_id=row["id"], name=row["name"], created_at=row["created_at"], archived_at=row["archived_at"])


async def insert_project(conn: Connection, project_id: str, name: str, now: datetime) -> None:
    """Insert a project."""
    await conn.execute("INSERT INTO project (id, name, created_at) VALUES ($1, $2, $3)", project_id, name, now)


async def list_projects(conn: Connection, *, archived: bool = False) -> list[Project]:
    """Return all projects, oldest first. ``archived``: include archived ones."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM project WHERE $1 OR archived_at IS NULL ORDER BY created_at, id", archived
    )
    return [_project(row) for row in rows]


async def lock_project(conn: Connection, project_id: str) -> Project | None:
    """Return a project and lock it until the transaction ends.

    So nobody can archive it or add keys meanwhile.
    """
    row = await conn.fetchrow(f"SELECT {_COLUMNS} FROM project WHERE id = $1 FOR NO KEY UPDATE", project_id)
    return None if row is None else _project(row)


async def project_exists(conn: Connection, project_id: str) -> bool:
    """Return whether a project exists, archived or not."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM project WHERE id = $1)", project_id))


async def existing_projects(conn: Connection, ids: list[str]) -> set[str]:
    """Return those of the project ids that exist."""
    return {row["id"] for row in await conn.fetch("SELECT id FROM project WHERE id = ANY ($1::text[])", ids)}


async def rename_project(conn: Connection, project_id: str, name: str) -> Project | None:
    """Change the name of a project."""
    row = await conn.fetchrow(f"UPDATE project SET name = $2 WHERE id = $1 RETURNING {_COLUMNS}", project_id, name)
    return None if row is None else _project(row)


async def archive_project(conn: Connection, project_id: str, now: datetime) -> Project | None:
    """Archive a project from ``now`` on. A project archived earlier keeps its time.

    A trigger notifies every API process.
    """
    row = await conn.fetchrow(
        f"""
        UPDATE project
        SET archived_at = coalesce(archived_at, $2)
        WHERE id = $1
        RETURNING {_COLUMNS}
        """,
        project_id,
        now,
    )
    return None if row is None else _project(row)


async def restore_project(conn: Connection, project_id: str) -> Project | None:
    """Undo ``archive_project``."""
    row = await conn.fetchrow(f"UPDATE project SET archived_at = NULL WHERE id = $1 RETURNING {_COLUMNS}", project_id)
    return None if row is None else _project(row)
