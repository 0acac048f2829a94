"""A session of Postgres: what it is, and what it starts with. Asked before there is a schema."""

from collections.abc import Mapping
from typing import Any

# An earlier session's locks, cursors and channels. Not `RESET ALL`: that would take away what the session starts with.
CLEAR = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *"


async def session_facts(conn: Any, pid: int) -> tuple[bool, bool]:
    """Whether a pooler stands in between, and whether the session is read-only. ``pid``: of the server process, as the
    connection was told; a pooler tells a number of its own.

    The answer is a number of rows. A query that returns values would leave a prepared statement behind, and in a pooler
    that would be in somebody else's session."""
    facts = (
        "SELECT FROM generate_series(1,"
        f" (pg_backend_pid() <> {int(pid)})::int + 2 * (current_setting('transaction_read_only') = 'on')::int)"
    )
    bits = int((await conn.execute(facts)).split()[-1])
    return bool(bits & 1), bool(bits & 2)


async def backend_pid(conn: Any) -> int:
    """The server process behind the connection just now, asked in a transaction of its own."""
    async with conn.transaction():
        pid: int = await conn.fetchval("SELECT pg_backend_pid()")
    return pid


async def end_own_backend(conn: Any) -> None:
    """End the server's side of the connection. Does not return normally."""
    await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def set_for_session(conn: Any, settings: Mapping[str, str]) -> str | None:
    """Set each of ``settings`` until the session ends. Returns the schema in which new tables are made, if there is one."""
    await conn.fetch(
        "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)",
        list(settings),
        list(settings.values()),
    )
    schema: str | None = await conn.fetchval("SELECT current_schema()")
    return schema


def set_for_psycopg_session(conn: Any, settings: Mapping[str, str]) -> str | None:
    """``set_for_session`` on a connection of psycopg's."""
    for name, value in settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    row = conn.execute("SELECT current_schema()").fetchone()
    return None if row is None else row[0]


async def is_read_only(conn: Any) -> bool:
    """Whether Postgres would refuse to write."""
    read_only: bool = await conn.fetchval("SELECT current_setting('transaction_read_only') = 'on'")
    return read_only
