"""SQL of sessions and rooms.

The state of a session is stored as msgspec's JSON of shared/metering/state.py. The other columns are derived from it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg
import msgspec

from shared.errors import ConcurrentFold
from shared.infra.postgres.pool import Connection
from shared.metering.state import Room, Session

_decode = msgspec.json.Decoder(Session).decode


async def lock_sessions(conn: Connection, sids: list[str], room_sids: list[str]) -> dict[str, Session]:
    """Load and lock the sessions of these sids, and those whose end depends on one of these rooms.

    Rows are locked in the order of their sids.
    """
    rows = await conn.fetch(
        """
        SELECT state
        FROM session
        WHERE sid = ANY ($1::text[])
           OR (
               room_sid = ANY ($2::text[]) AND (ended_by IS NULL OR ended_by IN ('room_finished', 'reconciled'))
           )
        ORDER BY sid
        FOR UPDATE
        """,
        sids,
        room_sids,
    )
    sessions = (_decode(row["state"]) for row in rows)
    return {session.sid: session for session in sessions}


async def lock_rooms(conn: Connection, sids: list[str]) -> dict[str, Room]:
    """Load and lock the rooms of these sids, in the order of the sids."""
    rows = await conn.fetch(
        """
        SELECT sid, name, project_id, mode, created_ms, finished_ms, superseded_ms
        FROM room
        WHERE sid = ANY ($1::text[])
        ORDER BY sid
        FOR UPDATE
        """,
        sids,
    )
    return {row["sid"]: Room(**{**row, "finished_ms": tuple(row["finished_ms"])}) for row in rows}


# The columns derived from a state (shared/ledger/rows.py). The first is the key. ``state`` is the last column of a row.
DERIVED = (
    "sid", "project_id", "mode", "room", "room_sid", "identity", "kind", "started_ms", "ended_ms", "ended_by", "video_ms",
    "screen_share_ms", "video_edges", "screen_share_edges", "last_sign_ms",
)  # fmt: skip
# A row as ``session_row`` returns it.
SessionRow = tuple[object, ...]


def array_literal(value: object) -> object:
    """Return a list of whole numbers as an array literal: unnest would flatten arrays of arrays."""
    return "{" + ",".join(map(str, value)) + "}" if isinstance(value, list) else value


_UNNEST: Final = """(
            SELECT
                sid, project_id, mode, room, room_sid, identity, kind, started_ms, ended_ms, ended_by,
                video_ms, screen_share_ms, video_edges::bigint[], screen_share_edges::bigint[], last_sign_ms, state
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::bigint[], $9::bigint[], $10::text[], $11::bigint[], $12::bigint[], $13::text[], $14::text[],
                $15::bigint[], $16::bytea[]
            ) AS u (
                sid, project_id, mode, room, room_sid, identity, kind, started_ms, ended_ms, ended_by,
                video_ms, screen_share_ms, video_edges, screen_share_edges, last_sign_ms, state
            )
        )"""


async def insert_sessions(conn: Connection, rows: Sequence[SessionRow]) -> None:
    """Store new sessions by COPY, which costs two thirds of an INSERT.

    Raises ``ConcurrentFold`` if another transaction stored one of them first. The current transaction has then failed.
    """
    try:
        await conn.copy_records_to_table("session", records=rows, columns=[*DERIVED, "state"])
    except asyncpg.UniqueViolationError:
        raise ConcurrentFold from None


async def update_sessions(conn: Connection, rows: Sequence[SessionRow]) -> None:
    """Replace stored sessions."""
    if not rows:
        return
    await conn.execute(
        f"""
        UPDATE session
        SET
            project_id = n.project_id,
            mode = n.mode,
            room = n.room,
            room_sid = n.room_sid,
            identity = n.identity,
            kind = n.kind,
            started_ms = n.started_ms,
            ended_ms = n.ended_ms,
            ended_by = n.ended_by,
            video_ms = n.video_ms,
            screen_share_ms = n.screen_share_ms,
            video_edges = n.video_edges,
            screen_share_edges = n.screen_share_edges,
            last_sign_ms = n.last_sign_ms,
            state = n.state
        FROM {_UNNEST} AS n
        WHERE session.sid = n.sid
        """,
        *zip(*(map(array_literal, row) for row in rows), strict=True),
    )


async def insert_rooms(conn: Connection, rooms: Sequence[Room]) -> int:
    """Store new rooms and return how many were stored. Fewer: another transaction stored one first."""
    status = await conn.execute(
        """
        INSERT INTO room (sid, name, project_id, mode, created_ms, finished_ms, superseded_ms)
        SELECT sid, name, project_id, mode, created_ms, finished::bigint[], superseded_ms
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[]) AS n (
            sid, name, project_id, mode, created_ms, finished, superseded_ms
        )
        ON CONFLICT DO NOTHING
        """,
        [room.sid for room in rooms],
        [room.name for room in rooms],
        [room.project_id for room in rooms],
        [room.mode for room in rooms],
        [room.created_ms for room in rooms],
        # unnest flattens arrays of arrays, so the inner ones are sent as literals.
        ["{" + ",".join(map(str, room.finished_ms)) + "}" for room in rooms],
        [room.superseded_ms for room in rooms],
    )
    return int(status.rpartition(" ")[2])


async def update_rooms(conn: Connection, rooms: Sequence[Room]) -> None:
    await conn.executemany(
        """
        UPDATE room
        SET
            name = $2,
            project_id = $3,
            mode = $4,
            created_ms = $5,
            finished_ms = $6,
            superseded_ms = $7
        WHERE sid = $1
        """,
        [(r.sid, r.name, r.project_id, r.mode, r.created_ms, list(r.finished_ms), r.superseded_ms) for r in rooms],
    )


async def namesakes(conn: Connection, rooms: Sequence[Room]) -> list[Room]:
    """Return the stored rooms of the same name just before and just after each of these rooms.

    Rooms that are already stored with this creation time are skipped, at the cost of reading their row. Several rooms can
    share a creation time, because some versions of LiveKit send whole seconds.
    """
    rows = await conn.fetch(
        """
        SELECT DISTINCT near.sid, near.name, near.created_ms
        FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (sid, name, created_ms), LATERAL (
            (
                SELECT sid, name, created_ms
                FROM room
                WHERE name = n.name
                  AND created_ms < n.created_ms
                  AND sid <> n.sid
                ORDER BY created_ms DESC
                FETCH FIRST 1 ROW WITH TIES
            )
            UNION ALL (
                SELECT sid, name, created_ms
                FROM room
                WHERE name = n.name
                  AND created_ms > n.created_ms
                  AND sid <> n.sid
                ORDER BY created_ms
                FETCH FIRST 1 ROW WITH TIES
            )
        ) AS near
        WHERE NOT EXISTS (
            SELECT FROM room AS known
            WHERE known.sid = n.sid
              AND known.created_ms = n.created_ms
        )
        """,
        [room.sid for room in rooms],
        [room.name for room in rooms],
        [room.created_ms for room in rooms],
    )
    return [Room(**row) for row in rows]


class Confirmed(NamedTuple):
    """An open session that LiveKit listed at ``confirmed_ms`` (unix ms)."""

    session: Session
    confirmed_ms: int


async def confirmed_in_rooms(conn: Connection, room_sids: Sequence[str]) -> list[Confirmed]:
    """Return the open sessions of these rooms that reconciliation has confirmed."""
    rows = await conn.fetch(
        """
        SELECT state, confirmed_ms
        FROM session
        WHERE room_sid = ANY ($1::text[])
          AND ended_by IS NULL
          AND started_ms IS NOT NULL
          AND confirmed_ms IS NOT NULL
        ORDER BY sid
        """,
        list(room_sids),
    )
    return [Confirmed(_decode(row["state"]), row["confirmed_ms"]) for row in rows]


async def delete_sessions(conn: Connection, sids: Sequence[str]) -> None:
    await conn.execute("DELETE FROM session WHERE sid = ANY ($1::text[])", sids)


async def delete_rooms(conn: Connection, sids: Sequence[str]) -> None:
    await conn.execute("DELETE FROM room WHERE sid = ANY ($1::text[])", sids)
