"""Applies the migrations, whichever process comes first, while the others wait."""

import time
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from yoyo import get_backend, read_migrations

from shared.earlier_migrations import carry_over, forget_earlier
from shared.errors import RelayError
from shared.queries import migrations as queries
from shared.schema import MIGRATIONS
from shared.settings import DatabaseUrl

_WAIT_S = 120.0
_POLL_S = 0.2


class MigrationsBlocked(RelayError):
    """Another process has been migrating for too long."""

    def __init__(self) -> None:
        super().__init__(
            f"another process has been migrating this database for over {_WAIT_S:.0f} s; look what it waits for"
        )


def _yoyo_uri(database: DatabaseUrl) -> str:
    parts = urlsplit(database.dsn)
    query = parse_qsl(parts.query)
    if database.schema is not None:
        query.append(("options", f'-csearch_path="{database.schema}"'))
    return urlunsplit(parts._replace(scheme="postgresql+psycopg", query=urlencode(query, quote_via=quote)))


def migrate(database: DatabaseUrl) -> list[str]:
    """Brings the database up to date and returns the ids of the migrations applied. Safe to call from any number of
    processes at once: a session advisory lock lets one work, and dies with the process that holds it. yoyo's own lock is a
    row that outlives a killed process, so the holder of ours removes a stale one. Raises ``MigrationsBlocked``,
    ``EarlierDatabaseIncomplete``."""
    with psycopg.connect(database.dsn, autocommit=True, connect_timeout=5) as guard:
        deadline = time.monotonic() + _WAIT_S
        while not queries.try_migration_lock(guard, database.schema or ""):
            if time.monotonic() > deadline:
                raise MigrationsBlocked
            time.sleep(_POLL_S)  # a synchronous start-up step; nothing else runs in this process yet
        if database.schema is not None:
            guard.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(database.schema)))
        backend = get_backend(_yoyo_uri(database))
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


def rollback_all(database: DatabaseUrl) -> None:
    """Undoes every migration, newest first. Loses all data; for tests of the rollbacks."""
    backend = get_backend(_yoyo_uri(database))
    try:
        with backend.lock():
            backend.rollback_migrations(backend.to_rollback(read_migrations(str(MIGRATIONS))))
            forget_earlier(backend)
    finally:
        backend.connection.close()
