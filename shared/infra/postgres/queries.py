"""SQL about a session: its properties and its settings. It needs no schema."""

from collections.abc import Mapping
from typing import Any

# Clears the locks, cursors and channels of an earlier user. `RESET ALL` would also reset the settings of the session.
CLEAR = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *"


async def session_facts(conn: Any, pid: int) -> tuple[bool, bool]:
    """Return whether there is a pooler in between, and whether the session is read-only.

    ``pid``: the process id that the server reported when connecting; a pooler reports another number. The query answers by
    its number of rows. A query with values would leave a prepared statement behind, and a pooler could give it to another
    client's session.
    """
    facts = (
        "SELECT FROM generate_series(1,"
        f" (pg_backend_pid() <> {int(pid)})::int + 2 * (current_setting('transaction_read_only') = 'on')::int)"
    )
    bits = int((await conn.execute(facts)).split()[-1])
    return bool(bits & 1), bool(bits & 2)


async def backend_pid(conn: Any) -> int:
    """Return the process id of the server session that runs a new transaction of this connection."""
    async with conn.transaction():
        pid: int = await conn.fetchval("SELECT pg_backend_pid()")
    return pid


async def end_own_backend(conn: Any) -> None:
    """End the server's side of the connection. Never returns normally."""
    await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def set_for_session(conn: Any, settings: Mapping[str, str]) -> str | None:
    """Apply settings until the session ends. Returns the schema of new tables, if there is one."""
    await conn.fetch(
        "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)",
        list(settings),
        list(settings.values()),
    )
    schema: str | None = await conn.fetchval("SELECT current_schema()")
    return schema


def set_for_psycopg_session(conn: Any, settings: Mapping[str, str]) -> str | None:
    """Do the same as ``set_for_session`` on a psycopg connection."""
    for name, value in settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    row = conn.execute("SELECT current_schema()").fetchone()
    return None if row is None else row[0]


async def is_read_only(conn: Any) -> bool:
    """Return whether Postgres would refuse a write."""
    read_only: bool = await conn.fetchval("SELECT current_setting('transaction_read_only') = 'on'")
    return read_only
