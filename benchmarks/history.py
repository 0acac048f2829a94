"""Fill a migrated database with years of sessions by SQL, as if a worker had folded them."""

import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import console
from services.cli.projects import create_project
from shared.events.queries import partitions
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.postgres.pool import connect
from shared.infra.settings import parse_database_url
from shared.models.projects import CreatedProject

_SQL = Path(__file__).with_name("history.sql")
EVENT_DAYS = 30
_MEMORY = "SET maintenance_work_mem = '512MB'; SET work_mem = '256MB'; SET synchronous_commit = off"


async def fill(database_url: str, sessions: int, days: int, rooms: int, identities: int) -> CreatedProject:
    """Create a project and its history, which ends at the last midnight. Return the project."""
    database = parse_database_url(database_url)
    project = await create_project(database, f"{sessions} sessions")
    until_ms = floor_to(time.time_ns() // 1_000_000, DAY_MS)
    settings = {
        "sessions": sessions, "days": days, "rooms": rooms, "identities": identities, "until": until_ms,
        "event_days": EVENT_DAYS, "project": project.project_id,
    }  # fmt: skip
    conn = await connect(database)
    try:
        await conn.execute(_MEMORY)
        for name, value in settings.items():
            await conn.execute("SELECT set_config($1, $2, false)", f"bench.{name}", str(value))
        for day in range(EVENT_DAYS + 1):
            await partitions.add_day(conn, until_ms - day * DAY_MS)
        # An index on ten million existing rows takes a tenth of the time.
        indexes = await conn.fetch(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'session' AND indexname <> 'session_pkey'"
        )
        for index in indexes:
            await conn.execute(f"DROP INDEX {index['indexname']}")
        for statement in _SQL.read_text(encoding="utf-8").split(";\n"):
            if statement.strip():
                started = time.perf_counter()
                status = await conn.execute(statement, timeout=3600)
                console.print(f"{datetime.now(UTC):%H:%M:%S} {status}: {time.perf_counter() - started:.1f} s")
        for index in indexes:
            await conn.execute(index["indexdef"], timeout=3600)
        await conn.execute("VACUUM (ANALYZE)", timeout=3600)
    finally:
        await conn.close()
    return project
