"""SQL of workers, their heartbeats, and waiting work."""

from datetime import timedelta

from shared.infra.clock import from_ms
from shared.infra.postgres.pool import Connection
from shared.models.operations import MachineState, WaitingWork, WorkerRow

# A worker sends a heartbeat every five seconds. One that missed several has ended.
ALIVE_S = 30
_REMEMBERED = timedelta(days=1)


async def beat(conn: Connection, worker: WorkerRow) -> None:
    """Record a heartbeat."""
    await conn.execute(
        """
        INSERT INTO worker (id, host, pid, version, started_at, seen_at, stopped_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, stopped_at = excluded.stopped_at
        """,
        *worker,
    )


async def forget_workers(conn: Connection, now_ms: int) -> None:
    """Delete the rows of workers that were not seen for a day."""
    await conn.execute("DELETE FROM worker WHERE seen_at < $1", from_ms(now_ms) - _REMEMBERED)


async def workers(conn: Connection) -> list[WorkerRow]:
    """Return every worker of the last day, the most recently seen first."""
    rows = await conn.fetch(
        """
        SELECT id, host, pid, version, started_at, seen_at, stopped_at
        FROM worker
        ORDER BY seen_at DESC, id
        """
    )
    return [WorkerRow(*row) for row in rows]


async def waiting_work(conn: Connection, now_ms: int) -> WaitingWork:
    """Count the events in the inbox, the set-aside events, and the running workers.

    The inbox holds at most the events of one outage of Redis, so counting it is cheap.
    """
    row = await conn.fetchrow(
        """
        SELECT (SELECT count(*) FROM webhook_inbox), (SELECT count(*) FROM set_aside_event),
               (SELECT count(*) FROM worker WHERE seen_at >= $1 AND stopped_at IS NULL)
        """,
        from_ms(now_ms) - timedelta(seconds=ALIVE_S),
    )
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return WaitingWork(*row)


async def machine_state(conn: Connection, now_ms: int) -> MachineState:
    """Return the waiting work, the workers, and the time of the last webhook."""
    waiting = await waiting_work(conn, now_ms)
    seen_at = await conn.fetchval("SELECT max(seen_at) FROM worker")
    webhook_ms = await conn.fetchval("SELECT max(received_ms) FROM fold_progress WHERE partition >= 0")
    return MachineState(*waiting, seen_at, webhook_ms)


async def server_version(conn: Connection) -> str:
    """Return the version of Postgres, such as `15.4`, without the suffix of a package."""
    version: str = await conn.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)")
    return version
