"""SQL of the erasure of an identity: find and replace it everywhere it is stored."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from shared.infra.postgres.pool import Connection
from shared.metering.state import Session

_decode = msgspec.json.Decoder(Session).decode
_encode = msgspec.json.Encoder().encode
# Reading every event of a project may take longer than any request may.
TIMEOUT_S = 3600.0


class StoredEvent(NamedTuple):
    """A stored event that names the identity.

    ``own``: it is about this identity, in the session ``sid``. ``called``: the current identity of that session.
    """

    created_at: datetime
    id: str
    body: bytes
    own: bool
    sid: str | None
    called: str | None


async def count_open(conn: Connection, project_id: str, identity: str) -> int:
    """Count the open sessions of this identity."""
    count: int = await conn.fetchval(
        """
        SELECT count(*)
        FROM session
        WHERE project_id = $1
          AND identity = $2
          AND started_ms IS NOT NULL
          AND ended_ms IS NULL
        """,
        project_id,
        identity,
        timeout=TIMEOUT_S,
    )
    return count


async def lock_sessions_of(conn: Connection, project_id: str, identity: str, erased_prefix: str) -> list[Session]:
    """Lock and return all sessions of this identity in both modes, in the order of the fold.

    Includes sessions that were erased before and have had an event since: it may have added personal data again.
    """
    rows = await conn.fetch(
        """
        SELECT state
        FROM session
        WHERE sid IN (
            SELECT sid
            FROM session
            WHERE project_id = $1
              AND identity = $2
            UNION
            SELECT participant_sid
            FROM event
            WHERE identity = $2
              AND (project_id = $1 OR (project_id IS NULL AND room IS NULL))
        )
          AND project_id = $1
          AND (identity = $2 OR starts_with(identity, $3))
        ORDER BY sid
        FOR UPDATE
        """,
        project_id,
        identity,
        erased_prefix,
        timeout=TIMEOUT_S,
    )
    return [_decode(row["state"]) for row in rows]


async def rename_sessions(conn: Connection, sessions: Sequence[Session]) -> None:
    """Store the identities and states of these sessions. No other column depends on the identity."""
    await conn.execute(
        """
        UPDATE session
        SET identity = n.identity, state = n.state
        FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (sid, identity, state)
        WHERE session.sid = n.sid
        """,
        [session.sid for session in sessions],
        [session.identity for session in sessions],
        [_encode(session) for session in sessions],
        timeout=TIMEOUT_S,
    )


async def hold_events(conn: Connection) -> None:
    """Prevent partitions from being added or dropped until the transaction ends.

    While the rows of a day move from the default partition to a new one, a statement that was planned earlier does not know
    the new partition and finds the rows in neither.
    """
    await conn.execute("LOCK TABLE event IN ACCESS SHARE MODE", timeout=TIMEOUT_S)


async def forget_usage(conn: Connection, project_id: str, identity: str) -> None:
    """Delete the empty rollups of this identity. The project's scopes must be locked."""
    await conn.execute(
        """
        DELETE FROM usage_group
        WHERE project_id = $1
          AND dimension = 'identity'
          AND name = $2
          AND visits = 0
          AND sessions = 0
          AND participant_ms = 0
        """,
        project_id,
        identity,
        timeout=TIMEOUT_S,
    )


async def events_about(
    conn: Connection, project_id: str, identity: str, quoted: bytes, sids: Sequence[str]
) -> AsyncIterator[StoredEvent]:
    """Yield the stored events that name this identity.

    That includes events without a room, if they belong to a session of ``sids``. ``quoted``: the identity as JSON, with its
    quotation marks. The caller may run other statements between two events.
    """
    query = """
        SELECT e.created_at, e.id, e.body, e.identity IS NOT DISTINCT FROM $2 AS own, e.participant_sid AS sid,
            s.identity AS called
        FROM event e
        LEFT JOIN session s ON s.sid = e.participant_sid
        WHERE (
            e.project_id = $1 OR (
                e.project_id IS NULL AND e.room IS NULL AND e.participant_sid = ANY ($4::text[])
            )
        )
          AND (e.identity = $2 OR position($3::bytea IN e.body) > 0)
        """
    async for row in conn.cursor(query, project_id, identity, quoted, list(sids), prefetch=100, timeout=TIMEOUT_S):
        yield StoredEvent(*row)


async def rewrite_event(conn: Connection, event: StoredEvent, body: bytes, name: str) -> None:
    """Replace the body of an event and, if the event is about this identity, its identity."""
    await conn.execute(
        """
        UPDATE event
        SET body = $3, identity = CASE WHEN $4 THEN $5 ELSE identity END
        WHERE created_at = $1
          AND id = $2
        """,
        event.created_at,
        event.id,
        body,
        event.own,
        name,
        timeout=TIMEOUT_S,
    )


async def set_aside_about(conn: Connection, project_id: str, quoted: bytes) -> list[tuple[int, bytes]]:
    """Return (id, body) of the set-aside events that name both this project and this identity."""
    rows = await conn.fetch(
        """
        SELECT id, body
        FROM set_aside_event
        WHERE position($1::bytea IN body) > 0
          AND position($2::bytea IN body) > 0
        ORDER BY id
        FOR UPDATE
        """,
        f"_{project_id}__".encode(),
        quoted,
        timeout=TIMEOUT_S,
    )
    return [(row["id"], row["body"]) for row in rows]


async def rewrite_set_aside(conn: Connection, bodies: Sequence[tuple[int, bytes]]) -> None:
    """Replace the bodies of set-aside events. ``bodies``: (id, body)."""
    await conn.execute(
        """
        UPDATE set_aside_event
        SET body = n.body
        FROM unnest($1::bigint[], $2::bytea[]) AS n (id, body)
        WHERE set_aside_event.id = n.id
        """,
        [number for number, _ in bodies],
        [body for _, body in bodies],
    )


async def drop_set_aside(conn: Connection, ids: Sequence[int]) -> None:
    """Delete set-aside events."""
    await conn.execute("DELETE FROM set_aside_event WHERE id = ANY ($1::bigint[])", list(ids))


async def forget_answers_about(conn: Connection, project_id: str, quoted: bytes) -> int:
    """Delete stored answers of idempotent requests that name this identity. They are kept for a day only."""
    status = await conn.execute(
        """
        DELETE FROM attempt
        WHERE project_id = $1
          AND body IS NOT NULL
          AND position($2::bytea IN body) > 0
        """,
        project_id,
        quoted,
    )
    return int(status.rpartition(" ")[2])


async def rename_in_audit_log(conn: Connection, project_id: str, identity: str, name: str) -> None:
    """Replace the identity in the audit-log entries about participants who were removed from a room."""
    await conn.execute(
        """
        UPDATE audit_log
        SET target = $3
        WHERE project_id = $1
          AND target = $2
          AND action IN ('participant_removing', 'participant_removed', 'participant_removal_failed')
        """,
        project_id,
        identity.replace("\0", "\ufffd"),
        name,
        timeout=TIMEOUT_S,
    )
