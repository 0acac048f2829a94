"""SQL of the worker's periodic jobs: their locks, and their last runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.infra.postgres.pool import Connection
from shared.models.operations import JobRun


@asynccontextmanager
async def job_lock(conn: Connection, name: str) -> AsyncIterator[bool]:
    """Try to take the lock of a job, without waiting. Yields whether this connection holds it.

    The lock belongs to the connection. It ends with the block, or with the process that holds it.
    """
    held = bool(
        await conn.fetchval(
            "SELECT pg_try_advisory_lock(hashtext('relay_job_' || current_schema()), hashtext($1))", name
        )
    )
    try:
        yield held
    finally:
        if held and not conn.is_closed():
            await conn.execute(
                "SELECT pg_advisory_unlock(hashtext('relay_job_' || current_schema()), hashtext($1))", name
            )


async def last_run(conn: Connection, name: str) -> JobRun | None:
    """Return the last run of a job, finished or not."""
    row = await conn.fetchrow("SELECT name, started_ms, finished_ms, error FROM periodic_job WHERE name = $1", name)
    return None if row is None else JobRun(**row)


async def record_start(conn: Connection, name: str, now_ms: int) -> None:
    """Record that a run has started."""
    await conn.execute(
        """
        INSERT INTO periodic_job (name, started_ms)
        VALUES ($1, $2)
        ON CONFLICT (name)
        DO UPDATE SET
            started_ms = excluded.started_ms,
            finished_ms = NULL,
            error = NULL
        """,
        name,
        now_ms,
    )


async def record_end(conn: Connection, name: str, now_ms: int, error: str | None) -> None:
    """Record the end of a run, with the error if it failed. Postgres stores no NUL."""
    await conn.execute(
        "UPDATE periodic_job SET finished_ms = $2, error = $3 WHERE name = $1",
        name,
        now_ms,
        None if error is None else error[:1000].replace("\0", "�"),
    )
