"""Apply the migrations in one process, while other processes wait."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from yoyo import read_migrations

from shared.errors import RelayError
from shared.infra.migrations import queries
from shared.infra.migrations.earlier_migrations import carry_over, forget_earlier
from shared.infra.migrations.schema import MIGRATIONS
from shared.infra.migrations.yoyo_backend import Connection, open_backend, psycopg_connection
from shared.infra.postgres.database_url import DatabaseUrl
from shared.infra.postgres.errors import DatabaseUnusable, SchemaRightMissing, query_problem

_WAIT_S = 120.0
_POLL_S = 0.2


class MigrationsBlocked(RelayError):
    """Another process has been migrating for too long. ``holder`` names it."""

    def __init__(self, holder: str = "another process") -> None:
        super().__init__(f"{holder} has been migrating this database for over {_WAIT_S:.0f} s; check what it waits for")


def migrate(database: DatabaseUrl) -> list[str]:
    """Apply all pending migrations and return their ids.

    Any number of processes may call this at the same time. A lock lets one of them work, and ends with its transaction. yoyo's
    own lock is a row that stays after its process is killed, so the holder of Relay's lock removes it.

    Raises ``MigrationsBlocked``, ``DatabaseUnusable``, ``EarlierDatabaseIncomplete``.
    """
    try:
        with psycopg_connection(database) as guard:
            _require_rights(guard, database)
            with _locked(guard, database):
                return _apply(database)
    except psycopg.Error as error:
        raise DatabaseUnusable(query_problem(error) or str(error)) from error


def _apply(database: DatabaseUrl) -> list[str]:
    backend = open_backend(database)
    try:
        backend.break_lock()
        with backend.lock():
            migrations = read_migrations(str(MIGRATIONS))
            carry_over(backend, migrations)
            pending = backend.to_apply(migrations)
            applied = [migration.id for migration in pending]
            backend.apply_migrations(pending)
    finally:
        backend.connection.close()
    return applied


def _require_rights(guard: Connection, database: DatabaseUrl) -> None:
    """Check the rights, because yoyo hides that it could not create its tables.

    Raises ``SchemaRightMissing``.
    """
    missing = queries.missing_right(guard, database.schema)
    if missing is not None:
        raise SchemaRightMissing(*missing)


@contextmanager
def _locked(guard: Connection, database: DatabaseUrl) -> Iterator[None]:
    """Hold the lock of the schema inside the block, and create the schema first.

    Raises ``MigrationsBlocked``.
    """
    schema = database.schema or ""
    deadline = time.monotonic() + _WAIT_S
    while True:
        with guard.transaction():
            if queries.try_migration_lock(guard, schema):
                if database.schema is not None:
                    _make_schema(database)
                yield
                return
        if time.monotonic() > deadline:
            raise MigrationsBlocked(queries.migration_lock_holder(guard, schema))
        time.sleep(_POLL_S)  # a synchronous step at start; nothing else runs in this process yet


def _make_schema(database: DatabaseUrl) -> None:
    with psycopg_connection(database) as conn:
        conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(str(database.schema))))


def rollback_all(database: DatabaseUrl) -> None:
    """Undo every migration, newest first. Deletes all data. For tests of the rollbacks."""
    backend = open_backend(database)
    try:
        with backend.lock():
            backend.rollback_migrations(backend.to_rollback(read_migrations(str(MIGRATIONS))))
            forget_earlier(backend)
    finally:
        backend.connection.close()
