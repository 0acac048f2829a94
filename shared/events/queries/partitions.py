"""Creates, fills and drops the day partitions of `event`.

A day's table is created separately and then attached. That locks the default partition, but nothing that stops the fold
from writing to the other days. A statement that needs a lock of the fold gives up after ``LOCK_TIMEOUT_MS``, because
everybody who comes later waits behind it. Days are unix ms of their UTC midnight.
"""

import re
from datetime import UTC, datetime

import asyncpg

from shared.events.queries.events import EVENT_COLUMNS
from shared.infra.clock import DAY_MS
from shared.infra.postgres.pool import Connection

LOCK_TIMEOUT_MS = 250
# All columns of `event`: a row that moves to its day keeps every one.
_COLUMNS = ", ".join(EVENT_COLUMNS)
_NAME = re.compile(r"event_(\d{8})")


def _name(day_ms: int) -> str:
    return f"event_{_at(day_ms):%Y%m%d}"


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _bounds(day_ms: int) -> tuple[str, str]:
    return f"'{_at(day_ms).isoformat()}'", f"'{_at(day_ms + DAY_MS).isoformat()}'"


async def days_with_partition(conn: Connection) -> list[int]:
    """The days that have a partition, ascending."""
    rows = await conn.fetch(
        """
        SELECT c.relname::text AS name
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'event'::regclass
        """
    )
    names = (match[1] for row in rows if (match := _NAME.fullmatch(row["name"])))
    return sorted(int(datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).timestamp()) * 1000 for name in names)


async def default_bytes(conn: Connection) -> int:
    """How large the default partition is, without its indexes."""
    size: int = await conn.fetchval("SELECT pg_table_size('event_default')")
    return size


async def days_in_default(conn: Connection) -> list[int]:
    """The days that have rows in the default partition. Reads all of it."""
    rows = await conn.fetch(
        """
        SELECT DISTINCT (extract(epoch FROM date_trunc('day', created_at, 'UTC')) * 1000)::bigint AS day
        FROM event_default
        """
    )
    return sorted(row["day"] for row in rows)


async def _lock(conn: Connection, timeout_ms: int = LOCK_TIMEOUT_MS) -> None:
    """One at a time, and none of the locks that follow is waited for long."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtext('relay_partitions_' || current_schema()), 0)")
    await conn.execute("SELECT set_config('lock_timeout', $1, true)", f"{timeout_ms}ms")


async def add_day(conn: Connection, day_ms: int) -> int | None:
    """Add the partition of a day and move the rows of the day there out of the default partition.

    Nobody reads or writes the default partition meanwhile, so it should be small. Returns how many rows were moved, None if
    the day had its partition already. Raises ``asyncpg.LockNotAvailableError``.
    """
    name, (start, end) = _name(day_ms), _bounds(day_ms)
    async with conn.transaction():
        await _lock(conn)
        if await conn.fetchval("SELECT to_regclass($1)", name) is not None:
            return None
        await conn.execute("LOCK TABLE event_default IN ACCESS EXCLUSIVE MODE")
        await _make_apart(conn, name, start, end)
        status = await conn.execute(
            f"""
            WITH moved AS (
                DELETE FROM event_default
                WHERE created_at >= {start}
                  AND created_at < {end}
                RETURNING {_COLUMNS}
            )
            INSERT INTO {name} ({_COLUMNS})
            SELECT {_COLUMNS}
            FROM moved
            """
        )
        await _attach(conn, name, start, end)
    return int(status.rpartition(" ")[2])


async def add_future_day(conn: Connection, day_ms: int) -> bool:
    """Add the partition of a day without events, however large the default partition is.

    The default partition is scanned for rows of that day while others write to it. Locks that stop them are held for
    moments only. Returns False if the day had a partition already. Raises ``asyncpg.LockNotAvailableError``, and
    ``asyncpg.CheckViolationError`` if the day has a row after all.
    """
    name, (start, end) = _name(day_ms), _bounds(day_ms)
    proof = f"without_{name}"
    try:
        async with conn.transaction():
            await _lock(conn)
            if await conn.fetchval("SELECT to_regclass($1)", name) is not None:
                return False
            await _drop_proof(conn, proof)
            await conn.execute(
                f"""
                ALTER TABLE event_default
                ADD CONSTRAINT {proof} CHECK (created_at < {start} OR created_at >= {end}) NOT VALID
                """
            )
        await conn.execute(f"ALTER TABLE event_default VALIDATE CONSTRAINT {proof}", timeout=3600)
        async with conn.transaction():
            await _lock(conn)
            await _make_apart(conn, name, start, end)
            await _attach(conn, name, start, end)
            await _drop_proof(conn, proof)
    except asyncpg.PostgresError:
        await drop_proofs(conn)
        raise
    return True


async def _make_apart(conn: Connection, name: str, start: str, end: str) -> None:
    # The CHECK proves to ATTACH that it need not look at the rows.
    await conn.execute(
        f"""
        CREATE TABLE {name} (
            LIKE event INCLUDING ALL,
            CONSTRAINT of_its_day CHECK (created_at >= {start} AND created_at < {end})
        )
        """
    )


async def _attach(conn: Connection, name: str, start: str, end: str) -> None:
    await conn.execute(f"ALTER TABLE event ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})")
    await conn.execute(f"ALTER TABLE {name} DROP CONSTRAINT of_its_day")


async def _drop_proof(conn: Connection, proof: str) -> None:
    await conn.execute(f"ALTER TABLE event_default DROP CONSTRAINT IF EXISTS {proof}")


async def drop_proofs(conn: Connection) -> None:
    """Takes away what ``add_future_day`` left when it was interrupted: when that day comes, it would refuse its events."""
    rows = await conn.fetch(
        r"""
        SELECT conname::text AS name
        FROM pg_constraint
        WHERE conrelid = 'event_default'::regclass
          AND conname LIKE 'without\_event\_%'
        """
    )
    for row in rows:
        async with conn.transaction():
            await _lock(conn, 10 * LOCK_TIMEOUT_MS)
            await _drop_proof(conn, row["name"])


async def drop_day(conn: Connection, day_ms: int) -> None:
    """Deletes a day's events. Raises ``asyncpg.LockNotAvailableError``."""
    async with conn.transaction():
        await _lock(conn)
        await _move_horizon(conn, day_ms + DAY_MS)
        await conn.execute(f"DROP TABLE IF EXISTS {_name(day_ms)}")


async def delete_from_default(conn: Connection, before_ms: int, limit: int) -> int:
    """Deletes up to ``limit`` events that lie in the default partition and are older than ``before_ms``; returns how many."""
    async with conn.transaction():
        status = await conn.execute(
            """
            DELETE FROM event_default
            WHERE (created_at, id) IN (
                SELECT created_at, id
                FROM event_default
                WHERE created_at < $1
                ORDER BY created_at, id
                LIMIT $2
            )
            """,
            _at(before_ms),
            limit,
        )
        count = int(status.rpartition(" ")[2])
        if count:
            await _move_horizon(conn, before_ms)
    return count


async def _move_horizon(conn: Connection, dropped_before_ms: int) -> None:
    await conn.execute(
        """
        INSERT INTO event_horizon AS h (dropped_before_ms)
        VALUES ($1)
        ON CONFLICT (one)
        DO UPDATE SET
            dropped_before_ms = greatest(h.dropped_before_ms, excluded.dropped_before_ms)
        """,
        dropped_before_ms,
    )


async def horizon(conn: Connection) -> int | None:
    """Events LiveKit made before this (unix ms) may have been dropped; None while all that ever came are kept."""
    value: int | None = await conn.fetchval("SELECT dropped_before_ms FROM event_horizon")
    return value


async def database_now_ms(conn: Connection) -> int:
    """The time by Postgres' clock."""
    value: int = await conn.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return value
