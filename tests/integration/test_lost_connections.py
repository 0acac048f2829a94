"""Connections that Postgres ends or leaves hanging: a query on one means "try again", whenever it comes, and soon."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest

from shared.postgres import UNAVAILABLE, Connection, Pool, borrowed, connect
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


@asynccontextmanager
async def at_once(_conn: Connection) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def in_transaction(conn: Connection) -> AsyncIterator[None]:
    async with conn.transaction():
        yield


@pytest.mark.parametrize(
    ("way", "within_s", "cancelled"),
    [(at_once, 1.0, False), (at_once, 60.0, True), (in_transaction, 1.0, False)],
)
async def test_a_query_that_hangs_lets_go_of_its_borrower(
    pool: Pool, way: Callable[[Connection], AbstractAsyncContextManager[None]], within_s: float, cancelled: bool
) -> None:
    """A process that stands still takes no request to give the query up either. Left to itself asyncpg waits 30 s for that, and
    a time-out around it does not end before."""
    hangs: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        async with borrowed(pool, within_s) as conn, way(conn):
            os.kill(conn.get_server_pid(), signal.SIGSTOP)
            hangs.set_result(conn.get_server_pid())
            await conn.execute("SELECT 1")

    asking = asyncio.create_task(ask())
    try:
        async with asyncio.timeout(20):
            pid = await hangs
            if cancelled:
                asking.cancel()
            with pytest.raises(asyncio.CancelledError if cancelled else UNAVAILABLE):
                await asking
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await pool.fetchval("SELECT 1") == 1
