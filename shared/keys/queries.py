"""SQL of API keys. The database stores only the SHA-256 of a key."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

from shared.infra.ids import KeyType, Mode, key_digest, key_prefix
from shared.infra.postgres.errors import ReadOnlySession
from shared.infra.postgres.pool import Connection
from shared.models.projects import KeyInfo, KeyRecord

# The channel on which the triggers of migration 0001 announce a changed key by its digest in hex.
KEY_CHANGES = "relay_keys"

_COLUMNS = (
    "id, project_id, name, mode, type, last_four, created_at, created_by, last_used_at, expires_at, revoked_at,"
    " rotated_to"
)


def _key_info(row: "asyncpg.Record") -> KeyInfo:
    fields: dict[str, Any] = {**row}
    return KeyInfo(key_id=fields.pop("id"), prefix=key_prefix(row["mode"], row["type"]), **fields)


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


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
    created_by: str | None = None,
) -> KeyInfo:
    """Insert a key. Stores its digest and its last four characters, never the key itself."""
    row = await conn.fetchrow(
        f"""
        INSERT INTO api_key (
            id, project_id, mode, type, name, last_four, digest, created_at, expires_at, created_by
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        RETURNING {_COLUMNS}
        """,
        key_id,
        project_id,
        mode,
        key_type,
        name,
        key[-4:],
        key_digest(key),
        now,
        expires_at,
        created_by,
    )
    assert row is not None  # noqa: S101  # an INSERT that did not raise returns its row
    return _key_info(row)


async def key_by_digest(conn: Connection, digest: bytes) -> KeyRecord | None:
    """Return what a request needs to know about a key, by its digest."""
    row = await conn.fetchrow(
        """
        SELECT k.id, k.project_id, k.mode, k.type, k.expires_at, k.revoked_at,
            p.archived_at IS NOT NULL AS archived
        FROM api_key k
        JOIN project p ON p.id = k.project_id
        WHERE k.digest = $1
        """,
        digest,
    )
    if row is None:
        return None
    return KeyRecord(
        row["id"],
        row["project_id"],
        row["mode"],
        row["type"],
        _ms(row["expires_at"]),
        _ms(row["revoked_at"]),
        row["archived"],
    )


async def prove_connected(conn: Connection, timeout_s: float) -> None:
    """Make a round trip to the server, which proves that notifications would arrive.

    Raises if there is no answer, and ``ReadOnlySession`` for a read-only server, on which keys cannot change.
    """
    status = await conn.execute("SELECT WHERE current_setting('transaction_read_only') = 'off'", timeout=timeout_s)
    if status != "SELECT 1":
        raise ReadOnlySession


async def list_keys(conn: Connection, project_id: str | None, mode: Mode | None = None) -> list[KeyInfo]:
    """Return the keys of a project (None: of all projects), oldest first, including revoked ones."""
    rows = await conn.fetch(
        f"""
        SELECT {_COLUMNS}
        FROM api_key
        WHERE ($1::text IS NULL OR project_id = $1)
          AND ($2::text IS NULL OR mode = $2)
        ORDER BY project_id, created_at, id
        """,
        project_id,
        mode,
    )
    return [_key_info(row) for row in rows]


async def key_page(
    conn: Connection, project_id: str, mode: Mode, limit: int, after: KeyInfo | None = None
) -> list[KeyInfo]:
    """Return up to ``limit`` keys of a project and mode that are older than ``after``, newest first."""
    rows = await conn.fetch(
        f"""
        SELECT {_COLUMNS}
        FROM api_key
        WHERE project_id = $1
          AND mode = $2
          AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
        ORDER BY created_at DESC, id DESC
        LIMIT $5
        """,
        project_id,
        mode,
        None if after is None else after.created_at,
        None if after is None else after.key_id,
        limit,
    )
    return [_key_info(row) for row in rows]


async def key_by_id(conn: Connection, key_id: str) -> KeyInfo | None:
    """Return a key by its id."""
    row = await conn.fetchrow(f"SELECT {_COLUMNS} FROM api_key WHERE id = $1", key_id)
    return None if row is None else _key_info(row)


async def lock_key(conn: Connection, key_id: str) -> KeyInfo | None:
    """Return a key and lock it until the transaction ends, so that a second rotation sees the first."""
    row = await conn.fetchrow(f"SELECT {_COLUMNS} FROM api_key WHERE id = $1 FOR NO KEY UPDATE", key_id)
    return None if row is None else _key_info(row)


async def count_usable_keys(conn: Connection, project_id: str, mode: Mode, now: datetime) -> int:
    """Count the keys of a project and mode that are neither revoked nor expired."""
    count: int = await conn.fetchval(
        """
        SELECT count(*)
        FROM api_key
        WHERE project_id = $1
          AND mode = $2
          AND revoked_at IS NULL
          AND (expires_at IS NULL OR expires_at > $3)
        """,
        project_id,
        mode,
        now,
    )
    return count


async def revoke_keys(conn: Connection, key_ids: list[str], now: datetime) -> list[KeyInfo]:
    """Revoke keys from ``now`` on. A key that was revoked earlier keeps its time."""
    rows = await conn.fetch(
        f"""
        UPDATE api_key
        SET revoked_at = least(revoked_at, $2)
        WHERE id = ANY ($1::text[])
        RETURNING {_COLUMNS}
        """,
        key_ids,
        now,
    )
    return [_key_info(row) for row in rows]


async def keys_made_by(conn: Connection, makers: list[str]) -> list[str]:
    """Return the ids of the keys that one of ``makers`` created (``key:<id>``)."""
    rows = await conn.fetch(
        "SELECT id FROM api_key WHERE created_by = ANY ($1::text[]) AND created_by LIKE 'key:%'", makers
    )
    return [row["id"] for row in rows]


async def end_key(conn: Connection, key_id: str, expires_at: datetime, rotated_to: str) -> KeyInfo | None:
    """Let a replaced key expire at ``expires_at``, but not later than before."""
    row = await conn.fetchrow(
        f"""
        UPDATE api_key
        SET expires_at = least(expires_at, $2), rotated_to = $3
        WHERE id = $1
        RETURNING {_COLUMNS}
        """,
        key_id,
        expires_at,
        rotated_to,
    )
    return None if row is None else _key_info(row)


async def rename_key(conn: Connection, key_id: str, name: str) -> KeyInfo | None:
    """Change the name of a key."""
    row = await conn.fetchrow(f"UPDATE api_key SET name = $2 WHERE id = $1 RETURNING {_COLUMNS}", key_id, name)
    return None if row is None else _key_info(row)


async def mark_used(conn: Connection, used: Mapping[str, datetime]) -> set[str]:
    """Record when keys were last used. A stored time never goes back. Returns the ids that were recorded.

    Locked rows are skipped, so that revocations and other processes never wait for this statement.
    """
    rows = await conn.fetch(
        """
        WITH used AS (
            SELECT *
            FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at)
        ),
        free AS (
            SELECT id
            FROM api_key
            WHERE id IN (SELECT id FROM used)
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE api_key k
        SET last_used_at = greatest(k.last_used_at, used.at)
        FROM used
        JOIN free USING (id)
        WHERE k.id = used.id
        RETURNING k.id
        """,
        list(used),
        list(used.values()),
    )
    return {row["id"] for row in rows}
