"""Every place where an identity is stored, and how another name takes its place."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from shared.metering.state import Session
from shared.postgres import Connection

_decode = msgspec.json.Decoder(Session).decode
_encode = msgspec.json.Encoder().encode
# Reading every event of a project may take longer than any request is given.
TIMEOUT_S = 3600.0


class StoredEvent(NamedTuple):
    """Where it stands and what LiveKit sent."""

    created_at: datetime
    id: str
    body: bytes


async def count_open(conn: Connection, project_id: str, identity: str) -> int:
    """Sessions of this identity that have not ended."""
    count: int = await conn.fetchval(
        "SELECT count(*) FROM session WHERE project_id = $1 AND identity = $2 AND started_ms IS NOT NULL"
        " AND ended_ms IS NULL",
        project_id,
        identity,
        timeout=TIMEOUT_S,
    )
    return count


async def lock_sessions_of(conn: Connection, project_id: str, identity: str) -> list[Session]:
    """All sessions of this identity in both modes, locked in the fold's order."""
    rows = await conn.fetch(
        "SELECT state FROM session WHERE project_id = $1 AND identity = $2 ORDER BY sid FOR UPDATE",
        project_id,
        identity,
        timeout=TIMEOUT_S,
    )
    return [_decode(row["state"]) for row in rows]


async def rename_sessions(conn: Connection, sessions: Sequence[Session]) -> None:
    """Stores these states. Nothing else of a session depends on who it was."""
    await conn.execute(
        "UPDATE session SET identity = n.identity, state = n.state"
        " FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (sid, identity, state) WHERE session.sid = n.sid",
        [session.sid for session in sessions],
        [session.identity for session in sessions],
        [_encode(session) for session in sessions],
        timeout=TIMEOUT_S,
    )


async def rename_usage(conn: Connection, project_id: str, identity: str, pseudonym: str) -> None:
    """Gives the rollups of this identity their new name. The project's scopes must be locked."""
    await conn.execute(
        "UPDATE usage_group SET name = $3 WHERE project_id = $1 AND dimension = 'identity' AND name = $2",
        project_id,
        identity,
        pseudonym,
        timeout=TIMEOUT_S,
    )


async def events_about(conn: Connection, project_id: str, identity: str, quoted: bytes) -> list[StoredEvent]:
    """The kept events that name this identity. ``quoted``: as it stands in JSON, with its quotation marks."""
    rows = await conn.fetch(
        "SELECT created_at, id, body FROM event WHERE project_id = $1 AND (identity = $2 OR position($3::bytea IN body) > 0)",
        project_id,
        identity,
        quoted,
        timeout=TIMEOUT_S,
    )
    return [StoredEvent(*row) for row in rows]


async def rewrite_events(conn: Connection, events: Sequence[StoredEvent], identity: str, pseudonym: str) -> None:
    """Stores these bodies, and the new name where the event was this identity's own."""
    await conn.execute(
        "UPDATE event SET body = n.body, identity = CASE WHEN event.identity = $4 THEN $5 ELSE event.identity END"
        " FROM unnest($1::timestamptz[], $2::text[], $3::bytea[]) AS n (created_at, id, body)"
        " WHERE event.created_at = n.created_at AND event.id = n.id",
        [event.created_at for event in events],
        [event.id for event in events],
        [event.body for event in events],
        identity,
        pseudonym,
        timeout=TIMEOUT_S,
    )


async def set_aside_about(conn: Connection, project_id: str, quoted: bytes) -> list[tuple[int, bytes]]:
    """(id, body) of the set-aside events that name both this project and this identity."""
    rows = await conn.fetch(
        "SELECT id, body FROM set_aside_event WHERE position($1::bytea IN body) > 0 AND position($2::bytea IN body) > 0"
        " ORDER BY id FOR UPDATE",
        f"_{project_id}__".encode(),
        quoted,
        timeout=TIMEOUT_S,
    )
    return [(row["id"], row["body"]) for row in rows]


async def rewrite_set_aside(conn: Connection, bodies: Sequence[tuple[int, bytes]]) -> None:
    await conn.execute(
        "UPDATE set_aside_event SET body = n.body FROM unnest($1::bigint[], $2::bytea[]) AS n (id, body)"
        " WHERE set_aside_event.id = n.id",
        [number for number, _ in bodies],
        [body for _, body in bodies],
    )


async def drop_set_aside(conn: Connection, ids: Sequence[int]) -> None:
    await conn.execute("DELETE FROM set_aside_event WHERE id = ANY ($1::bigint[])", list(ids))


async def forget_answers_about(conn: Connection, project_id: str, quoted: bytes) -> int:
    """Drops kept answers of idempotent requests that name this identity; they would be gone within a day anyway."""
    status = await conn.execute(
        "DELETE FROM attempt WHERE project_id = $1 AND body IS NOT NULL AND position($2::bytea IN body) > 0",
        project_id,
        quoted,
    )
    return int(status.rpartition(" ")[2])
