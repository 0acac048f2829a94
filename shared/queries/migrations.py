"""Locks and facts about the state of the schema."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared.postgres import Connection

if TYPE_CHECKING:  # a driver that only migrating needs
    import psycopg


def try_migration_lock(conn: "psycopg.Connection[tuple[Any, ...]]", schema: str) -> bool:
    """Tries to become the one process that migrates this schema; released when the connection closes."""
    row = conn.execute("SELECT pg_try_advisory_lock(hashtext('relay_migrate'), hashtext(%s))", (schema,)).fetchone()
    return row is not None and bool(row[0])


async def missing_migrations(conn: Connection, known: Sequence[str]) -> list[str]:
    """Which of ``known`` have not been applied; all of them on a database that was never migrated."""
    if await conn.fetchval("SELECT to_regclass('_yoyo_migration')") is None:
        return list(known)
    rows = await conn.fetch(
        "SELECT migration_id FROM _yoyo_migration WHERE migration_id = ANY($1::text[])", list(known)
    )
    applied = {row[0] for row in rows}
    return [name for name in known if name not in applied]
