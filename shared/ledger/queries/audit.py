"""SQL of the audit: read states and events as ordered streams on one snapshot, one scope at a time.

The scope (None, None) holds the rows that belong to no project.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from shared.infra.postgres.pool import Connection
from shared.ledger.queries import media, sessions
from shared.metering.state import MediaRun, Room, Session
from shared.models.scope import AuditScope, DayRange, Scope
from shared.models.usage.audit import KeptEvent, StoredRoom, StoredRun, StoredSession

# Rows of one round trip. They are the memory of a stream: a row with a body has about a kilobyte.
PREFETCH = 500
# Long, because Postgres sorts all events of a project before it returns the first row.
TIMEOUT_S = 6 * 3600.0
_session = msgspec.json.Decoder(Session).decode
_run = msgspec.json.Decoder(MediaRun).decode


@asynccontextmanager
async def snapshot(conn: Connection) -> AsyncIterator[None]:
    """Run the block on one snapshot, independent of what the fold commits meanwhile.

    No partition of events can be dropped meanwhile. The lock is taken first, because a snapshot does not preserve a dropped
    table.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        await conn.execute("LOCK TABLE event IN ACCESS SHARE MODE")
        yield


async def scopes(conn: Connection) -> list[AuditScope]:
    """Return every project and mode, including those that only a rollup names. (None, None) comes last."""
    rows = await conn.fetch(
        """
        -- The audit must also find rows whose project does not exist.
        SELECT id AS project_id, mode
        FROM project
        CROSS JOIN (VALUES ('live'), ('test')) AS modes (mode)
        UNION
        SELECT project_id, mode
        FROM usage_hour
        UNION
        SELECT project_id, mode
        FROM media_hour
        UNION
        SELECT project_id, mode
        FROM concurrency
        WHERE length_ms = 86400000
        UNION
        SELECT project_id, mode
        FROM usage_group_count
        UNION
        SELECT project_id, mode
        FROM usage_day
        UNION
        SELECT project_id, mode
        FROM session
        WHERE project_id IS NOT NULL
          AND mode IS NOT NULL
        UNION
        SELECT project_id, mode
        FROM media_run
        WHERE project_id IS NOT NULL
          AND mode IS NOT NULL
        UNION
        SELECT project_id, mode
        FROM room
        WHERE project_id IS NOT NULL
          AND mode IS NOT NULL
        ORDER BY 1, 2
        """,
        timeout=TIMEOUT_S,
    )
    return [*(AuditScope(row["project_id"], row["mode"]) for row in rows), AuditScope(None, None)]


async def weight(conn: Connection, scope: AuditScope) -> int:
    """Estimate how many sessions a scope has, for a progress bar."""
    if scope.owned is None:
        return 1
    query = """
    SELECT coalesce(sum(sessions), 0)::bigint
    FROM usage_hour
    WHERE project_id = $1
      AND mode = $2
    """
    count: int = await conn.fetchval(query, *scope)
    return 1 + count


_OF_SESSION = (
    "(s.started_ms IS NULL OR (s.started_ms < $4 AND (s.ended_ms IS NULL OR s.ended_ms >= $3))"
    " OR s.sid IN (SELECT participant_sid FROM event WHERE {event} AND participant_sid IS NOT NULL"
    " AND created_at >= to_timestamp($3::bigint / 1000) AND created_at < to_timestamp($4::bigint / 1000)))"
)


def _owned(scope: AuditScope, alias: str) -> str:
    """Return a condition on (project, mode). It uses both parameters in either case."""
    if scope.owned is None:
        return f"({alias}project_id IS NULL AND $1::text IS NULL AND $2::text IS NULL)"
    return f"({alias}project_id = $1::text AND {alias}mode = $2::text)"


def _within(scope: AuditScope, span: DayRange | None) -> str:
    """Return the condition for the sessions (``s``) of a span.

    That is, the sessions that were connected in it according to their row, or that an event of it names.
    """
    if span is None:
        return "$3::bigint IS NULL AND $4::bigint IS NULL"
    return _OF_SESSION.format(event=_owned(scope, ""))


def _parameters(scope: AuditScope, span: DayRange | None) -> tuple[object, ...]:
    return (*scope, *(span or (None, None)))


_SESSION = """
    SELECT s.sid, s.project_id, s.mode, s.room, s.room_sid, s.identity, s.kind, s.started_ms, s.ended_ms,
        s.ended_by, s.video_ms, s.screen_share_ms, s.video_edges::text AS video_edges,
        s.screen_share_edges::text AS screen_share_edges, s.last_sign_ms, s.state, r.sid AS r_sid,
        r.name AS r_name, r.project_id AS r_project_id, r.mode AS r_mode, r.created_ms AS r_created_ms,
        r.finished_ms AS r_finished_ms, r.superseded_ms AS r_superseded_ms
    FROM session s
    LEFT JOIN room r ON r.sid = s.room_sid
    """


def _stored_session(row: asyncpg.Record) -> StoredSession:
    room = None
    if row["r_sid"] is not None:
        room = Room(
            sid=row["r_sid"],
            name=row["r_name"],
            project_id=row["r_project_id"],
            mode=row["r_mode"],
            created_ms=row["r_created_ms"],
            finished_ms=tuple(row["r_finished_ms"]),
            superseded_ms=row["r_superseded_ms"],
        )
    try:
        state = _session(row["state"])
    except msgspec.MsgspecError:  # an empty state instead, which differs from the one that the events prove
        state = Session(sid=row["sid"])
    return StoredSession(state, {name: row[name] for name in sessions.DERIVED}, room)


async def sessions_by_sid(conn: Connection, scope: AuditScope, span: DayRange | None) -> AsyncIterator[StoredSession]:
    """Yield the sessions of a span, ordered by sid."""
    query = f'{_SESSION} WHERE {_owned(scope, "s.")} AND {_within(scope, span)} ORDER BY s.sid COLLATE "C"'
    async for row in conn.cursor(query, *_parameters(scope, span), prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield _stored_session(row)


async def ended_sessions(conn: Connection, scope: Scope, span: DayRange | None) -> AsyncIterator[StoredSession]:
    """Yield the ended sessions that count in the rollups of a span, ordered by start."""
    query = (
        f"{_SESSION} WHERE s.project_id = $1 AND s.mode = $2 AND s.started_ms IS NOT NULL AND s.ended_ms IS NOT NULL"
        " AND ($3::bigint IS NULL OR s.ended_ms >= $3) AND ($4::bigint IS NULL OR s.started_ms < $4) ORDER BY s.started_ms"
    )
    async for row in conn.cursor(query, *scope, *(span or (None, None)), prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield _stored_session(row)


def _ordered(parts: list[str]) -> str:
    return f"""
    SELECT sid, received_ms, body
    FROM ({" UNION ALL ".join(parts)}) AS e
    ORDER BY sid COLLATE "C"
    """


_KEPT = "(extract(epoch FROM received_at) * 1000)::bigint AS received_ms, body"


async def events_of_participants(
    conn: Connection, scope: AuditScope, span: DayRange | None
) -> AsyncIterator[KeptEvent]:
    """Yield all stored events of the sessions of a span, ordered by session."""
    owned = _owned(scope, "e.")
    chosen = ""
    if span is not None:
        sids = f"SELECT s.sid FROM session s WHERE {_owned(scope, 's.')} AND {_within(scope, span)}"
        named = f"SELECT participant_sid FROM event WHERE {_owned(scope, '')}"
        during = " AND created_at >= to_timestamp($3::bigint / 1000) AND created_at < to_timestamp($4::bigint / 1000)"
        chosen = f" AND e.participant_sid IN ({sids} UNION {named}{during})"
    elsewhere = "s.project_id IS NOT NULL" if scope.owned is None else _owned(scope, "s.")
    session_of = f"EXISTS (SELECT FROM session s WHERE s.sid = e.participant_sid AND {elsewhere})"
    if scope.owned is None:
        where = f"e.project_id IS NULL AND e.room IS NULL AND NOT {session_of}"
        parts = [f"SELECT e.participant_sid AS sid, {_KEPT} FROM event e WHERE {where}{chosen}"]
    else:
        # A track event without its room has no project, but its session may be one of these.
        where = f"e.project_id IS NULL AND e.room IS NULL AND {session_of}"
        parts = [f"SELECT e.participant_sid AS sid, {_KEPT} FROM event e WHERE {at}{chosen}" for at in (owned, where)]
    bound = " AND $1::text IS NOT DISTINCT FROM $1 AND $2::text IS NOT DISTINCT FROM $2"
    bound += " AND $3::bigint IS NOT DISTINCT FROM $3 AND $4::bigint IS NOT DISTINCT FROM $4"
    query = _ordered([f"{part} AND e.participant_sid IS NOT NULL{bound}" for part in parts])
    async for row in conn.cursor(query, *_parameters(scope, span), prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield KeptEvent(*row)


# The events that describe the whole room (shared/metering/observe.py).
_ROOM_EVENT = "e.name ~ '^(room_|participant_|relay_participant_seen$)' AND e.room_sid IS NOT NULL"


async def events_of_rooms(conn: Connection, scope: AuditScope, span: DayRange | None) -> AsyncIterator[KeptEvent]:
    """Yield all stored events about the rooms with an event in the span, ordered by room.

    ``scope`` must be owned.
    """
    chosen = _rooms_in(scope, span).format(sid="e.room_sid")
    query = _ordered(
        [
            f"""
        SELECT e.room_sid AS sid, {_KEPT}
        FROM event e
        WHERE {_owned(scope, "e.")}
          AND {_ROOM_EVENT}
          AND {chosen}
        """
        ]
    )
    async for row in conn.cursor(query, *_parameters(scope, span), prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield KeptEvent(*row)


def _rooms_in(scope: AuditScope, span: DayRange | None) -> str:
    if span is None:
        return "$3::bigint IS NULL AND $4::bigint IS NULL"
    return (
        f"{{sid}} IN (SELECT room_sid FROM event WHERE {_owned(scope, '')} AND created_at >= to_timestamp($3::bigint / 1000)"
        " AND created_at < to_timestamp($4::bigint / 1000))"
    )


async def rooms_by_sid(conn: Connection, scope: AuditScope, span: DayRange | None) -> AsyncIterator[StoredRoom]:
    """Yield the rooms with an event in the span, ordered by sid."""
    query = f"""
        SELECT sid, name, project_id, mode, created_ms, finished_ms, superseded_ms, (
            SELECT min(n.created_ms)
            FROM room n
            WHERE n.name = room.name
              AND n.created_ms > room.created_ms
        ) AS followed_ms
        FROM room
        WHERE {_owned(scope, "")}
          AND {_rooms_in(scope, span).format(sid="sid")}
        ORDER BY sid COLLATE "C"
        """
    async for row in conn.cursor(query, *_parameters(scope, span), prefetch=PREFETCH, timeout=TIMEOUT_S):
        fields = {**row, "finished_ms": tuple(row["finished_ms"])}
        followed_ms = fields.pop("followed_ms")
        yield StoredRoom(Room(**fields), followed_ms)


async def followed_ms(conn: Connection, room: Room) -> int | None:
    """Return when the next stored room of the same name was created (unix ms)."""
    query = "SELECT min(created_ms) FROM room WHERE name = $1 AND created_ms > $2"
    value: int | None = await conn.fetchval(query, room.name, room.created_ms)
    return value


async def events_of_runs(conn: Connection, scope: AuditScope) -> AsyncIterator[KeptEvent]:
    """Yield the stored events of egresses and ingresses that may belong to this scope.

    That includes those that name no room, and so no project.
    """
    owned = "" if scope.owned is None else "(e.project_id = $1::text AND e.mode = $2::text) OR "
    query = f"""
        SELECT e.id AS sid, {_KEPT}
        FROM event e
        WHERE ({owned}(e.project_id IS NULL AND e.room IS NULL))
          AND e.name ~ '^(relay_)?(egress|ingress)_'
          AND $1::text IS NOT DISTINCT FROM $1
          AND $2::text IS NOT DISTINCT FROM $2
        """
    async for row in conn.cursor(query, *scope, prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield KeptEvent(*row)


async def runs(conn: Connection, scope: AuditScope) -> AsyncIterator[StoredRun]:
    """Yield the egresses and runs of ingresses of a scope."""
    query = f"SELECT {', '.join(media.DERIVED)}, state FROM media_run WHERE {_owned(scope, '')}"
    async for row in conn.cursor(query, *scope, prefetch=PREFETCH, timeout=TIMEOUT_S):
        try:
            state = _run(row["state"])
        except msgspec.MsgspecError:
            state = MediaRun(id=row["id"], meter=row["meter"])
        yield StoredRun(state, {name: row[name] for name in media.DERIVED})


async def count_runs(conn: Connection, scope: AuditScope) -> int:
    """Count the egresses and runs of ingresses of a scope."""
    count: int = await conn.fetchval(f"SELECT count(*) FROM media_run WHERE {_owned(scope, '')}", *scope)
    return count


async def runs_of_a_project(conn: Connection, keys: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which of these (meter, id) pairs are stored with a project."""
    rows = await conn.fetch(
        """
        SELECT meter, id
        FROM media_run
        WHERE project_id IS NOT NULL
          AND (meter, id) IN (
              SELECT keys.meter, keys.id
              FROM unnest($1::text[], $2::text[]) AS keys (meter, id)
          )
        """,
        [meter for meter, _ in keys],
        [run_id for _, run_id in keys],
    )
    return {(row["meter"], row["id"]) for row in rows}
