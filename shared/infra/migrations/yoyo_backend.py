"""The one place that knows yoyo's inside: a backend that connects as Relay does. Written for yoyo 9.0.

pyproject.toml bounds the version, and tests/unit/test_library_internals.py fails when these parts move. Relay also reads yoyo's
table `_yoyo_migration` (shared/infra/migrations/queries.py)."""

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
    """A connection of libpq's, in autocommit, with the settings that every session of Relay starts with. Raises
    ``DatabaseUnusable``."""
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
    # A statement that only migrating repeats is not worth a name, which a pooler would keep.
    conn.prepare_threshold = None
    prepare_session(conn, database)
    return conn


def prepare_session(conn: Connection, database: DatabaseUrl) -> None:
    """Set what each session starts with, and prove where new tables go. Raises ``SchemaLost``."""
    schema = queries.set_for_psycopg_session(conn, session_settings(database))
    if database.schema is not None and schema not in (None, database.schema):
        raise SchemaLost(database.schema, str(schema))


class _Uri(NamedTuple):
    """What yoyo keeps as a backend's `uri`: it pickles it, and asks for a `database`."""

    url: DatabaseUrl
    database: str | None


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc] # yoyo has no annotations
    """yoyo's backend for psycopg 3, that connects as Relay does."""

    def connect(self, dburi: _Uri) -> Connection:
        return psycopg_connection(dburi.url)

    def init_connection(self, connection: Connection) -> None:
        """yoyo calls this after each rollback as well, which takes back what was set in the transaction."""
        prepare_session(connection, self.uri.url)


def open_backend(database: DatabaseUrl) -> Backend:
    """yoyo on the database, its own tables made where they are missing. Close ``connection`` afterwards."""
    backend = Backend(_Uri(database, parts_of(database.dsn).database), default_migration_table)
    backend.init_database()
    return backend
