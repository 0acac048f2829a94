"""The internals of yoyo that Relay uses: a backend with Relay's way to connect. Written for yoyo 9.0.

pyproject.toml bounds the version, and tests/unit/test_library_internals.py fails when these parts move. Relay also reads yoyo's
table `_yoyo_migration` (shared/infra/migrations/queries.py).
"""

from typing import Any, NamedTuple

import psycopg
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import default_migration_table

from shared.infra.postgres import queries
from shared.infra.postgres.database_url import DatabaseUrl, parts_of, with_defaults
from shared.infra.postgres.errors import DatabaseUnusable, SchemaLost
from shared.infra.postgres.session import CONNECT_TIMEOUT_S, session_settings

Connection = psycopg.Connection[tuple[Any, ...]]


def psycopg_connection(database: DatabaseUrl) -> Connection:
    """Open a psycopg connection in autocommit mode, with the settings of every session of Relay.

    Raises ``DatabaseUnusable``.
    """
    dsn = with_defaults(
        database.dsn,
        application_name="relay migrate",
        connect_timeout=f"{CONNECT_TIMEOUT_S:.0f}",
        target_session_attrs="read-write",
    )
    try:
        conn = psycopg.connect(dsn, autocommit=True)
    except psycopg.OperationalError as error:
        raise DatabaseUnusable(f"Postgres cannot be reached: {' '.join(str(error).split())}", passing=True) from error
    # Prepared statements would bring little to migrations, and a pooler would keep them.
    conn.prepare_threshold = None
    prepare_session(conn, database)
    return conn


def prepare_session(conn: Connection, database: DatabaseUrl) -> None:
    """Apply the session settings, and check the schema of new tables. Raises ``SchemaLost``."""
    schema = queries.set_for_psycopg_session(conn, session_settings(database))
    if database.schema is not None and schema not in (None, database.schema):
        raise SchemaLost(database.schema, str(schema))


class _Uri(NamedTuple):
    """The `uri` of a backend. yoyo pickles it and reads its `database`."""

    url: DatabaseUrl
    database: str | None


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc] # yoyo has no annotations
    """yoyo's backend for psycopg 3, which connects as Relay does."""

    def connect(self, dburi: _Uri) -> Connection:
        return psycopg_connection(dburi.url)

    def init_connection(self, connection: Connection) -> None:
        """Apply the session settings. yoyo also calls this after each rollback, which undoes settings."""
        prepare_session(connection, self.uri.url)


def open_backend(database: DatabaseUrl) -> Backend:
    """Open yoyo's backend, and create its tables if they are missing. The caller closes ``connection``."""
    backend = Backend(_Uri(database, parts_of(database.dsn).database), default_migration_table)
    backend.init_database()
    return backend
