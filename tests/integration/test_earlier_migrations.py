"""A database from before the migrations were renumbered is upgraded with its data.

An incomplete one is refused.
"""

import multiprocessing
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from yoyo import read_migrations

from services.local.embedded import EmbeddedServers, _postgres_binaries
from shared.infra.migrations.earlier_migrations import EARLIER, EQUIVALENT, EarlierDatabaseIncomplete
from shared.infra.migrations.migrate import migrate, rollback_all
from shared.infra.migrations.schema import known_migrations
from shared.infra.migrations.startup import ensure_migrated
from shared.infra.migrations.yoyo_backend import open_backend
from shared.infra.settings import DatabaseUrl, parse_database_url
from tests.conftest import fresh_database

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def earlier_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the migrations from before the renumbering."""
    folder = tmp_path_factory.mktemp("earlier")
    text = (FIXTURES / "migrations_before_renumbering.sql").read_text(encoding="utf-8")
    for name, statements in re.findall(r"^--- (\S+)\n(.*?)(?=^--- |\Z)", text, re.MULTILINE | re.DOTALL):
        (folder / f"{name}.sql").write_text(statements, encoding="utf-8")
    return folder


def apply_earlier(database: DatabaseUrl, folder: Path, count: int | None = None) -> None:
    """Apply the first ``count`` of the earlier migrations, as yoyo orders and marks them."""
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        if database.schema is not None:
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(database.schema)))
    backend = open_backend(database)
    try:
        migrations = read_migrations(str(folder))
        backend.apply_migrations(backend.to_apply(migrations)[: None if count is None else count])
    finally:
        backend.connection.close()


def fill(database: DatabaseUrl) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        conn.execute((FIXTURES / "a_row_in_every_table.sql").read_text(encoding="utf-8"))


def rows(database: DatabaseUrl) -> dict[str, list[Any]]:
    """Return every row of every table that is not yoyo's."""
    with psycopg.connect(database.dsn) as conn:
        tables = conn.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)' AND c.relname !~ 'yoyo'"
        ).fetchall()
        query = sql.SQL("SELECT to_jsonb(t) FROM {} t ORDER BY t::text")
        return {table: conn.execute(query.format(sql.Identifier(schema, table))).fetchall() for schema, table in tables}


def marks(database: DatabaseUrl) -> set[str]:
    with psycopg.connect(database.dsn) as conn:
        return {row[0] for row in conn.execute("SELECT migration_id FROM _yoyo_migration")}


def dumped(database: DatabaseUrl) -> str:
    """Return the schema as pg_dump writes it.

    It holds columns and their order, constraints, indexes, triggers, functions and options.
    """
    command = [
        str(_postgres_binaries() / "pg_dump"),
        "--schema-only",
        "--no-owner",
        "--exclude-table=*yoyo*",
        database.dsn,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def fresh_schema(servers: EmbeddedServers, migrated_template: str) -> str:
    with fresh_database(servers, migrated_template) as database:
        return dumped(database)


@pytest.fixture
def earlier(empty_database: DatabaseUrl, earlier_files: Path) -> DatabaseUrl:
    """A database with all migrations from before the renumbering."""
    apply_earlier(empty_database, earlier_files)
    return empty_database


def test_lists_of_migrations_match_the_files(earlier_files: Path) -> None:
    assert list(EARLIER) == sorted(path.stem for path in earlier_files.glob("*.sql"))
    assert list(EQUIVALENT) == known_migrations()[: len(EQUIVALENT)]
    assert not set(EARLIER) & set(known_migrations()), "a database could not tell an earlier migration from a new one"


def test_the_upgraded_schema_equals_that_of_a_new_database(earlier: DatabaseUrl, fresh_schema: str) -> None:
    assert fresh_schema.count("CREATE TABLE") > 20
    migrate(earlier)
    assert dumped(earlier) == fresh_schema


@pytest.mark.parametrize("start", [migrate, ensure_migrated])
def test_every_row_is_kept(earlier: DatabaseUrl, start: Callable[[DatabaseUrl], object]) -> None:
    fill(earlier)
    before = rows(earlier)
    assert len(before) > 25
    assert [table for table, found in before.items() if not found] == []
    start(earlier)
    assert rows(earlier) == before
    assert marks(earlier) >= {*known_migrations(), *EARLIER}, "the version before still finds its own"
    assert migrate(earlier) == []


def test_concurrent_processes_upgrade_the_database_once(earlier: DatabaseUrl) -> None:
    fill(earlier)
    before = rows(earlier)
    with ProcessPoolExecutor(6, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert list(processes.map(ensure_migrated, [earlier] * 6)) == [None] * 6
    assert rows(earlier) == before
    assert marks(earlier) == {*known_migrations(), *EARLIER}


def test_a_database_in_a_separate_schema_is_upgraded(empty_database: DatabaseUrl, earlier_files: Path) -> None:
    database = parse_database_url(empty_database.dsn + "&schema=Mixed_Case")
    apply_earlier(database, earlier_files)
    assert migrate(database) == []
    assert set(rows(empty_database)) >= {"session", "usage_day"}


def test_an_incomplete_database_is_refused_and_unchanged(empty_database: DatabaseUrl, earlier_files: Path) -> None:
    for count in range(1, len(EARLIER)):
        apply_earlier(empty_database, earlier_files, 1)
        found = marks(empty_database)
        missing = [name for name in EARLIER if name not in found]
        assert len(found) == count
        with pytest.raises(EarlierDatabaseIncomplete) as refusal:
            migrate(empty_database)
        assert refusal.value.missing == missing
        assert missing[0] in str(refusal.value)
        assert "check out commit 18d02f7, run `relay migrate`" in str(refusal.value)
        assert marks(empty_database) == found
    schema = dumped(empty_database)
    with pytest.raises(EarlierDatabaseIncomplete):
        ensure_migrated(empty_database)
    assert dumped(empty_database) == schema
    apply_earlier(empty_database, earlier_files)
    assert migrate(empty_database) == []


def test_a_rollback_removes_all_migration_marks(earlier: DatabaseUrl) -> None:
    migrate(earlier)
    rollback_all(earlier)
    assert rows(earlier) == {}
    assert marks(earlier) == set()
    assert migrate(earlier) == known_migrations()
