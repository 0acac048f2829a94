"""SQL of raw events, the inbox, set-aside events, and the progress of the fold."""

from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import TypeAlias

import asyncpg

from shared.infra.ids import RoomName
from shared.infra.postgres.pool import Connection
from shared.models.livekit_event import LiveKitEvent
from shared.models.received import Received


# Cached, because the events of a batch were created and received in the same few seconds.
@lru_cache(maxsize=4096)
def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


# The key of an event: the second in which LiveKit created it (unix ms), and its id. Keys and rows are plain tuples, because two
# named tuples for each event would add a tenth to the cost of folding.
EventKey: TypeAlias = tuple[int, str]
# An event as it is stored, in the order of ``EVENT_COLUMNS``.
EventRow: TypeAlias = tuple[object, ...]

EVENT_COLUMNS = (
    "created_at", "id", "received_at", "name", "project_id", "mode", "room", "room_sid", "participant_sid", "identity", "body",
)  # fmt: skip


def event_row(
    event: LiveKitEvent, key: EventKey, owner: RoomName | None, room_name: str, received: Received
) -> EventRow:
    """Return the row of an event.

    ``room_name``: LiveKit's name of the room, stored if the event belongs to no project (``owner`` is None).
    """
    room, participant = event.room, event.participant
    project_id, mode, shown = owner if owner is not None else (None, None, room_name or None)
    created_ms, event_id = key
    return (
        _utc(created_ms),
        event_id,
        _utc(received.received_ms),
        event.event,
        project_id,
        mode,
        shown,
        (room.sid or None) if room is not None else None,
        (participant.sid or None) if participant is not None else None,
        (participant.identity or None) if participant is not None else None,
        received.body,
    )


async def insert_events(conn: Connection, rows: Mapping[EventKey, EventRow]) -> Set[EventKey]:
    """Store events and return the keys of those that were not stored before.

    Only one transaction at a time folds the events of a partition, so usually no other transaction stores the same events
    meanwhile. New events are copied, at half the cost of an INSERT that expects conflicts. If another transaction stored one
    of them after all, that INSERT follows.
    """
    # Sent as whole seconds, because encoding timestamps would cost more than the lookup. The range excludes the partitions of
    # all other days.
    seconds = [created_ms // 1000 for created_ms, _ in rows]
    found = await conn.fetch(
        """
        SELECT n.created_s * 1000, n.id
        FROM unnest($1::bigint[], $2::text[]) AS n (created_s, id), LATERAL (
            SELECT FROM event
            WHERE created_at = to_timestamp(n.created_s)
              AND event.id = n.id
              AND created_at BETWEEN to_timestamp($3::bigint) AND to_timestamp($4::bigint)
            OFFSET 0
        ) AS known
        """,
        seconds,
        [event_id for _, event_id in rows],
        min(seconds),
        max(seconds),
    )
    known = set(map(tuple, found))
    new = {key: row for key, row in rows.items() if key not in known} if known else rows
    if not new:
        return set()
    try:
        async with conn.transaction():
            await conn.copy_records_to_table("event", records=new.values(), columns=EVENT_COLUMNS)
    except asyncpg.UniqueViolationError:
        return await _insert_unless_known(conn, list(new.values()))
    return new.keys()


async def _insert_unless_known(conn: Connection, rows: Sequence[EventRow]) -> set[EventKey]:
    columns = list(zip(*rows, strict=True))
    inserted = await conn.fetch(
        """
        INSERT INTO event AS e (
            created_at, id, received_at, name, project_id, mode, room, room_sid, participant_sid, identity, body
        )
        SELECT
            created_at, id, received_at, name, project_id, mode, room, room_sid, participant_sid, identity, body
        FROM unnest(
            $1::timestamptz[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::text[], $10::text[], $11::bytea[]
        ) AS n (
            created_at, id, received_at, name, project_id, mode, room, room_sid, participant_sid, identity, body
        )
        ON CONFLICT DO NOTHING
        RETURNING (extract(epoch FROM e.created_at) * 1000)::bigint, e.id
        """,
        *columns,
    )
    return set(map(tuple, inserted))


async def set_aside(
    conn: Connection, received: Received, reason: str, detail: str, same_as: bytes | None = None
) -> None:
    """Store an event that cannot be folded, so that it can be examined.

    A body stored before changes nothing. ``same_as``: bytes that are compared instead of the body.
    """
    await conn.execute(
        """
        INSERT INTO set_aside_event (body_sha256, received_at, reason, detail, body)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT DO NOTHING
        """,
        sha256(received.body if same_as is None else same_as).digest(),
        _utc(received.received_ms),
        reason,
        detail[:1000].replace("\0", "�"),
        received.body,
    )


async def put_in_inbox(conn: Connection, entries: Sequence[tuple[int, Received]]) -> None:
    """Store (partition, event) pairs: all of them while Redis is away, large events at any time."""
    await conn.execute(
        """
        INSERT INTO webhook_inbox (partition, received_ms, body)
        SELECT partition, received_ms, body
        FROM unnest($1::integer[], $2::bigint[], $3::bytea[]) AS n (partition, received_ms, body)
        """,
        [partition for partition, _ in entries],
        [received.received_ms for _, received in entries],
        [received.body for _, received in entries],
    )


async def inbox_partitions(conn: Connection) -> list[int]:
    """Return the partitions that have events in the inbox."""
    return [row["partition"] for row in await conn.fetch("SELECT DISTINCT partition FROM webhook_inbox ORDER BY 1")]


async def take_from_inbox(conn: Connection, partition: int, limit: int, max_bytes: int) -> list[Received]:
    """Remove and return the oldest entries of a partition, up to the one that reaches ``max_bytes``.

    They stay in the inbox if the transaction does not commit.
    """
    rows = await conn.fetch(
        """
        DELETE FROM webhook_inbox
        WHERE id IN (
            SELECT id
            FROM (
                SELECT id, sum(octet_length(body)) OVER (ORDER BY id) - octet_length(body) AS size_before
                FROM (
                    SELECT id, body
                    FROM webhook_inbox
                    WHERE partition = $1
                    ORDER BY id
                    LIMIT $2
                ) AS oldest
            ) AS sized
            WHERE size_before < $3
        )
        RETURNING id, received_ms, body
        """,
        partition,
        limit,
        max_bytes,
    )
    return [Received(row["received_ms"], row["body"]) for row in sorted(rows, key=lambda row: row["id"])]


async def lock_partition(conn: Connection, partition: int) -> None:
    """Lock a partition until this transaction ends. Waits while another transaction folds it."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtext('relay_fold_' || current_schema()), $1)", partition)


@asynccontextmanager
async def partition_reader(conn: Connection, partition: int) -> AsyncIterator[bool]:
    """Make this connection the only reader of a partition's stream; yield False if another one is.

    The lock belongs to the connection. It ends with the block, or with the process that holds it.
    """
    is_locked = await conn.fetchval(
        "SELECT pg_try_advisory_lock(hashtext('relay_read_' || current_schema()), $1)", partition
    )
    try:
        yield bool(is_locked)
    finally:
        if is_locked:
            await conn.execute("SELECT pg_advisory_unlock(hashtext('relay_read_' || current_schema()), $1)", partition)


async def record_progress(conn: Connection, partition: int, received_ms: int) -> None:
    """Record when the newest folded event of a partition was received (unix ms)."""
    await conn.execute(
        """
        INSERT INTO fold_progress (partition, received_ms)
        VALUES ($1, $2)
        ON CONFLICT (partition)
        DO UPDATE SET
            received_ms = greatest(fold_progress.received_ms, excluded.received_ms)
        """,
        partition,
        received_ms,
    )


# The row that says, for all partitions together, up to which time everything was folded at the last sweep.
ALL_PARTITIONS = -1


async def record_complete(conn: Connection, complete_ms: int) -> None:
    """Record that everything acknowledged before ``complete_ms`` was folded.

    A worker whose clock is ahead of Postgres' clock records the time of Postgres.
    """
    await conn.execute(
        """
        INSERT INTO fold_progress (partition, received_ms)
        VALUES ($1, least($2, (extract(epoch FROM clock_timestamp()) * 1000)::bigint))
        ON CONFLICT (partition)
        DO UPDATE SET received_ms = excluded.received_ms
        """,
        ALL_PARTITIONS,
        complete_ms,
    )
