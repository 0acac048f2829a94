"""What a query raises whose connection Postgres ends: something that means "try again", at whichever moment it comes."""

import asyncio

import psycopg
import pytest

from shared.postgres import UNAVAILABLE, connect
from shared.settings import Settings


@pytest.mark.parametrize("steps", range(6))
async def test_a_query_that_meets_the_end_of_its_connection(settings: Settings, steps: int) -> None:
    """``steps`` of the event loop after Postgres has hung up: it reads the last words in one, and the end in a later one."""
    conn = await connect(settings.database)
    try:
        with psycopg.connect(settings.database.dsn, autocommit=True) as other:
            # Returns when the process has gone, and blocks this loop meanwhile.
            ended = other.execute("SELECT pg_terminate_backend(%s, 10000)", [conn.get_server_pid()]).fetchone()
            assert ended == (True,)
        for _ in range(steps):
            await asyncio.sleep(0)
        with pytest.raises(UNAVAILABLE):
            await conn.execute("SELECT 1")
    finally:
        conn.terminate()
