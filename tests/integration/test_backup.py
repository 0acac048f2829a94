"""Backup and restore as docs/operations.md describes them: usage stays equal and metering continues."""

import asyncio
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from services.cli.projects import create_project
from services.local.embedded import _postgres_binaries
from shared.events.queries import events as event_queries
from shared.infra.migrations.migrate import migrate
from shared.infra.postgres.pool import create_pool
from shared.infra.settings import DatabaseUrl, Settings
from shared.ledger.fold import fold_batch
from shared.models.received import Received
from shared.projects import service as projects
from tests.integration.test_volume import metered, traffic_for


def contents(database: DatabaseUrl) -> dict[str, tuple[int, str]]:
    """Return the number of rows and a digest of the rows of every table."""
    found = {}
    with psycopg.connect(database.dsn) as conn:
        tables = conn.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY 1"
        ).fetchall()
        for (table,) in tables:
            query = sql.SQL("SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {} t")
            row = conn.execute(query.format(sql.Identifier(table))).fetchone()
            assert row is not None
            found[table] = (int(row[0]), str(row[1]))
    return found


def _dump_and_restore(source: DatabaseUrl, target: DatabaseUrl, dump: Path) -> None:
    binaries = _postgres_binaries()
    options = ["--format", "custom", "--file", str(dump), "--dbname", source.dsn]
    subprocess.run([str(binaries / "pg_dump"), *options], check=True)
    options = ["--exit-on-error", "--no-owner", "--dbname", target.dsn, str(dump)]
    subprocess.run([str(binaries / "pg_restore"), *options], check=True)


async def test_a_restored_database_has_equal_usage_and_keeps_metering(
    settings: Settings, empty_database: DatabaseUrl, tmp_path: Path
) -> None:
    owners = [((await create_project(settings.database, name)).project_id, name) for name in ("one", "two")]
    now_ms = time.time_ns() // 1_000_000
    events = [
        Received(now_ms, event.body)
        for event in traffic_for(owners, now_ms, "--events", "800", "--rooms", "8", "--people", "5").events
    ]
    half = len(events) // 2
    async with (
        create_pool(settings.database, "tests") as pool,
        pool.acquire() as conn,
        event_queries.partition_reader(conn, 0),
    ):
        await fold_batch(conn, 0, events[:half])

    await asyncio.to_thread(_dump_and_restore, settings.database, empty_database, tmp_path / "relay.dump")

    assert contents(empty_database) == contents(settings.database)
    assert migrate(empty_database) == []
    async with create_pool(settings.database, "tests") as before, create_pool(empty_database, "tests") as after:
        # Both get the rest, with an overlap of 100 events that the restored database already knows.
        for pool in (before, after):
            async with pool.acquire() as conn, event_queries.partition_reader(conn, 0):
                result = await fold_batch(conn, 0, events[half - 100 :])
                assert result.known == 100
        assert await metered(after, owners) == await metered(before, owners)
        # Triggers and keys are restored too.
        async with after.acquire() as conn, conn.transaction():
            created = await projects.create_project(conn, "three", datetime.now(UTC), created_by="tests")
            assert created.keys
            assert await conn.fetchval("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") > 0
