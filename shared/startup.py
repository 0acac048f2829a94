"""A service's start: a database that is as this code needs it."""

import asyncio

import asyncpg

from shared.errors import RelayError
from shared.postgres import UNAVAILABLE, connect
from shared.queries.migrations import missing_migrations
from shared.schema import known_migrations
from shared.settings import DatabaseUrl


class DatabaseUnreachable(RelayError):
    """Nothing that would let us in answers at DATABASE_URL."""

    def __init__(self) -> None:
        super().__init__("cannot reach Postgres at DATABASE_URL")


def ensure_migrated(database: DatabaseUrl) -> None:
    """Applies what has not been applied. The migration library and its driver are a quarter of a second of a process's start,
    so they are loaded only when there is something to apply. Raises ``DatabaseUnreachable``, ``MigrationsBlocked``."""
    try:
        missing = asyncio.run(_missing(database))
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise DatabaseUnreachable from error
    if not missing:
        return
    import psycopg

    from shared.migrate import migrate

    try:
        migrate(database)
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable from error


async def _missing(database: DatabaseUrl) -> list[str]:
    conn = await connect(database, "relay start")
    try:
        return await missing_migrations(conn, known_migrations())
    finally:
        await conn.close()
