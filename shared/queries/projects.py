"""Projects and API keys."""

from datetime import datetime
from typing import Any

import asyncpg

from shared.ids import KeyType, Mode, key_digest
from shared.models.projects import KeyInfo, KeyRecord, Project
from shared.postgres import Connection

# The channel on which the migration's trigger announces a changed key: the hex of its digest.
KEY_CHANGES = "relay_keys"


async def insert_project(conn: Connection, project_id: str, name: str, now: datetime) -> None:
    await conn.execute("INSERT INTO project (id, name, created_at) VALUES ($1, $2, $3)", project_id, name, now)


async def list_projects(conn: Connection) -> list[Project]:
    rows = await conn.fetch(
        "SELECT id, name, created_at FROM project WHERE archived_at IS NULL ORDER BY created_at, id"
    )
    return [Project(project_id=row["id"], name=row["name"], created_at=row["created_at"]) for row in rows]


async def project_exists(conn: Connection, project_id: str) -> bool:
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM project WHERE id = $1)", project_id))


async def existing_projects(conn: Connection, ids: list[str]) -> set[str]:
    """Which of these project ids exist."""
    return {row["id"] for row in await conn.fetch("SELECT id FROM project WHERE id = ANY ($1::text[])", ids)}


async def project_created_ms(conn: Connection, project_id: str) -> int | None:
    created: datetime | None = await conn.fetchval("SELECT created_at FROM project WHERE id = $1", project_id)
    return None if created is None else int(created.timestamp() * 1000)


async def insert_key(
    conn: Connection,
    key_id: str,
    project_id: str,
    key: str,
    *,
    mode: Mode,
    key_type: KeyType,
    name: str,
    now: datetime,
    expires_at: datetime | None = None,
) -> None:
    """Stores the digest and the last four characters of ``key``, never the key."""
    await conn.execute(
        "INSERT INTO api_key (id, project_id, mode, type, name, last_four, digest, created_at, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        key_id,
        project_id,
        mode,
        key_type,
        name,
        key[-4:],
        key_digest(key),
        now,
        expires_at,
    )


async def key_by_digest(conn: Connection, digest: bytes) -> KeyRecord | None:
    row = await conn.fetchrow(
        "SELECT id, project_id, mode, type, expires_at, revoked_at FROM api_key WHERE digest = $1", digest
    )
    if row is None:
        return None
    return KeyRecord(
        row["id"], row["project_id"], row["mode"], row["type"], _ms(row["expires_at"]), _ms(row["revoked_at"])
    )


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


async def prove_connected(conn: Connection, timeout_s: float) -> None:
    """A round trip, so that silence on the channel means that nothing was announced. Raises when there is no answer."""
    await conn.execute("SELECT 1", timeout=timeout_s)


async def list_keys(conn: Connection, project_id: str | None) -> list[KeyInfo]:
    """Keys of one project, or of all with None, oldest first; revoked ones too."""
    rows = await conn.fetch(
        "SELECT id, project_id, name, mode, type, last_four, created_at, expires_at, revoked_at FROM api_key"
        " WHERE $1::text IS NULL OR project_id = $1 ORDER BY project_id, created_at, id",
        project_id,
    )
    return [_key_info(row) for row in rows]


def _key_info(row: "asyncpg.Record") -> KeyInfo:
    fields: dict[str, Any] = {**row}
    return KeyInfo(key_id=fields.pop("id"), **fields)


async def revoke_key(conn: Connection, key_id: str, now: datetime) -> KeyInfo | None:
    """Revokes a key from ``now`` on; a key revoked earlier keeps its time. None if there is no such key."""
    row = await conn.fetchrow(
        "UPDATE api_key SET revoked_at = least(revoked_at, $2) WHERE id = $1"
        " RETURNING id, project_id, name, mode, type, last_four, created_at, expires_at, revoked_at",
        key_id,
        now,
    )
    return None if row is None else _key_info(row)
