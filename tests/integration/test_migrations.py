"""Migrations: applied once, by concurrent processes, after a killed process, and rolled back."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import msgspec
import psycopg
import pytest

from shared.infra.migrations.migrate import migrate, rollback_all
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations, latest_migration
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl, parse_database_url


def tables(database: DatabaseUrl) -> set[str]:
    query = "SELECT table_schema || '.' || table_name FROM information_schema.tables WHERE table_schema NOT LIKE 'pg_%'"
    with psycopg.connect(database.dsn) as conn:
        return {row[0] for row in conn.execute(query) if not row[0].startswith("information_schema.")}


def relay_tables(database: DatabaseUrl) -> set[str]:
    return {name for name in tables(database) if "yoyo" not in name}


def test_migrations_are_applied_once_and_are_reversible(empty_database: DatabaseUrl) -> None:
    first = migrate(empty_database)
    assert first == sorted(first)
    assert first[-1] == latest_migration()
    assert migrate(empty_database) == []
    made = relay_tables(empty_database)
    assert {"public.project", "public.session", "public.usage_hour"} <= made
    rollback_all(empty_database)
    assert relay_tables(empty_database) == set()
    assert migrate(empty_database) == first
    assert relay_tables(empty_database) == made


def test_concurrent_processes_apply_migrations_once(empty_database: DatabaseUrl) -> None:
    with ProcessPoolExecutor(6, mp_context=multiprocessing.get_context("spawn")) as processes:
        results = list(processes.map(migrate, [empty_database] * 6))
    assert sorted(map(len, results))[:5] == [0] * 5
    assert max(results, key=len)[-1] == latest_migration()


def test_the_lock_row_of_a_killed_process_does_not_block(empty_database: DatabaseUrl) -> None:
    migrate(empty_database)
    with psycopg.connect(empty_database.dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 999999)")
    assert migrate(empty_database) == []


@pytest.mark.parametrize("schema", ["relay", "Mixed_Case"])
async def test_migrations_use_the_schema_parameter_of_the_url(empty_database: DatabaseUrl, schema: str) -> None:
    url = empty_database.dsn + f"&schema={schema}&connection_limit=5"
    database = parse_database_url(url)
    assert database == msgspec.structs.replace(empty_database, schema=schema)
    migrate(database)
    assert {name.split(".")[0] for name in tables(database)} == {schema}
    conn = await connect(database)
    try:
        assert await missing_migrations(conn, known_migrations()) == []
        assert await conn.fetchval("SELECT count(*) FROM project") == 0
    finally:
        await conn.close()


async def test_an_unmigrated_database_is_detected(empty_database: DatabaseUrl) -> None:
    conn = await connect(empty_database)
    try:
        assert await missing_migrations(conn, known_migrations()) == known_migrations()
    finally:
        await conn.close()
