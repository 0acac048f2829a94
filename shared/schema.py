"""Whether the database is as this code needs it, found out without what it takes to change it (shared/migrate.py)."""

import asyncio
from pathlib import Path

import asyncpg

from shared.errors import RelayError
from shared.postgres import UNAVAILABLE, connect
from shared.queries.migrations import missing_migrations
from shared.settings import DatabaseUrl

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


class DatabaseUnreachable(RelayError):
    """Nothing that would let us in answers at DATABASE_URL."""

    def __init__(self) -> None:
        super().__init__("cannot reach Postgres at DATABASE_URL")


def known_migrations() -> list[str]:
    """The ids of all migrations this code knows, oldest first."""
    return sorted(path.name.removesuffix(".sql") for path in MIGRATIONS.glob("*.sql") if ".rollback." not in path.name)


def latest_migration() -> str:
    """The id of the newest migration this code knows."""
    return known_migrations()[-1]


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
