"""Wait for Postgres and apply missing migrations when a service starts."""

import asyncio
import logging
import time

import asyncpg

from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.postgres.database_url import DatabaseUrl
from shared.infra.postgres.errors import UNAVAILABLE, DatabaseUnusable, query_problem
from shared.infra.postgres.pool import connect

log = logging.getLogger("relay.start")

# Postgres may be starting too, after a reboot or in another container.
WAIT_S = 30.0
_POLL_S = 0.5


def ensure_migrated(database: DatabaseUrl) -> None:
    """Wait for Postgres and apply missing migrations. Raises the same errors as ``migrate_when_ready``."""
    migrate_when_ready(database)


def migrate_when_ready(database: DatabaseUrl, wait_s: float = WAIT_S) -> list[str]:
    """Apply missing migrations and return their ids.

    Waits up to ``wait_s`` for a Postgres that cannot be reached or is starting. The migration library and its driver take a
    quarter of a second to load, so they are loaded only when needed. Raises ``DatabaseUnusable``, ``MigrationsBlocked``.
    """
    warn_of_ignored(database)
    missing = asyncio.run(_missing_within(database, wait_s))
    if not missing:
        return []
    from shared.infra.migrations.migrate import migrate

    return migrate(database)


def warn_of_ignored(database: DatabaseUrl) -> None:
    """Log the parameters of DATABASE_URL that have no meaning for Relay, in one line."""
    if database.ignored:
        log.warning("DATABASE_URL: ignored, because they mean nothing to Relay: %s", ", ".join(database.ignored))


async def _missing_within(database: DatabaseUrl, wait_s: float) -> list[str]:
    deadline = time.monotonic() + wait_s
    waiting = False
    while True:
        try:
            return await _missing(database)
        except DatabaseUnusable as problem:
            if not problem.passing or time.monotonic() >= deadline:
                raise
            if not waiting:
                log.warning("%s; waiting up to %g s for it", problem, wait_s)
            waiting = True
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            raise DatabaseUnusable(
                query_problem(error) or f"Postgres does not answer ({type(error).__name__})"
            ) from error
        await asyncio.sleep(_POLL_S)


async def _missing(database: DatabaseUrl) -> list[str]:
    conn = await connect(database, "relay start")
    try:
        return await missing_migrations(conn, known_migrations())
    finally:
        await conn.close()
