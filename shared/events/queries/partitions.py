"""SQL that creates, fills and drops the day partitions of `event`.

A day's table is created separately and then attached. That locks the default partition, but the fold can write to the other
days. A statement that needs a lock that conflicts with the fold gives up after ``LOCK_TIMEOUT_MS``, because all later
statements queue behind it. Days are unix ms of their UTC midnight.
"""

import re
from datetime import UTC, datetime

import asyncpg

from shared.events.queries.events import EVENT_COLUMNS
from shared.infra.clock import DAY_MS
from shared.infra.postgres.pool import Connection

LOCK_TIMEOUT_MS = 250
# All columns of `event`, so that a row that moves to its day is complete.
_COLUMNS = ", ".join(EVENT_COLUMNS)
_NAME = re.compile(r"event_(\d{8})")


def _name(day_ms: int) -> str:
    return f"event_{_at(day_ms):%Y%m%d}"


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _bounds(day_ms: int) -> tuple[str, str]:
    return f"'{_at(day_ms).isoformat()}'", f"'{_at(day_ms + DAY_MS).isoformat()}'"


async def days_with_partition(conn: Connection) -> list[int]:
    """Return the days that have a partition, ascending."""
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
    """Return the size of the default partition in bytes, without its indexes."""
    size: int = await conn.fetchval("SELECT pg_table_size('event_default')")
    return size


async def days_in_default(conn: Connection) -> list[int]:
    """Return the days that have rows in the default partition. Reads the whole partition."""
    rows = await conn.fetch(
        """
        SELECT DISTINCT (extract(epoch FROM date_trunc('day', created_at, 'UTC')) * 1000)::bigint AS day
        FROM event_default
        """
    )
    return sorted(row["day"] for row in rows)


async def _lock(conn: Connection, timeout_ms: int = LOCK_TIMEOUT_MS) -> None:
    """Lock out other changes of partitions, and limit how long the following statements wait for locks."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtext('relay_partitions_' || current_schema()), 0)")
    await conn.execute("SELECT set_config('lock_timeout', $1, true)", f"{timeout_ms}ms")


async def add_day(conn: Connection, day_ms: int) -> int | None:
    """Add the partition of a day and move the day's rows into it from the default partition.

    The default partition is locked meanwhile, so it should be small. Returns the number of moved rows, or None if the day had
    a partition already. Raises ``asyncpg.LockNotAvailableError``.
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
    # With the CHECK, ATTACH does not need to scan the rows.
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
    """Remove the constraints that an interrupted ``add_future_day`` left.

    They would refuse events of that day.
    """
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
    """Drop the partition of a day with its events. Raises ``asyncpg.LockNotAvailableError``."""
    async with conn.transaction():
        await _lock(conn)
        await _move_horizon(conn, day_ms + DAY_MS)
        await conn.execute(f"DROP TABLE IF EXISTS {_name(day_ms)}")


async def delete_from_default(conn: Connection, before_ms: int, limit: int) -> int:
    """Delete up to ``limit`` events older than ``before_ms`` from the default partition.

    Return the number.
    """
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
    """Return the time (unix ms) before which events may have been dropped. None if none was ever dropped."""
    value: int | None = await conn.fetchval("SELECT dropped_before_ms FROM event_horizon")
    return value


async def database_now_ms(conn: Connection) -> int:
    """Return the time of Postgres' clock (unix ms)."""
    value: int = await conn.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return value
