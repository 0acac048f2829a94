"""Queries on connections that Postgres ends or leaves hanging fail soon, with "try again"."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest

from services.api.app import open_pool
from shared.infra.postgres.pool import (
    UNAVAILABLE,
    Connection,
    Pool,
    borrowed,
    connect,
    create_pool,
    end_statements_after,
    in_transaction,
)
from shared.infra.settings import Settings


@pytest.mark.parametrize("steps", range(6))
async def test_a_query_on_an_ended_connection_raises_unavailable(settings: Settings, steps: int) -> None:
    """The query runs ``steps`` turns of the event loop after Postgres has closed the connection.

    The loop reads the last data in one turn, and the end of the connection in a later one.
    """
    conn = await connect(settings.database)
    try:
        with psycopg.connect(settings.database.dsn, autocommit=True) as other:
            # Returns when the process has ended, and blocks this loop until then.
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


@pytest.mark.parametrize(
    ("way", "within_s", "cancelled"),
    [(at_once, 1.0, False), (at_once, 60.0, True), (in_transaction, 1.0, False), (in_transaction, 60.0, True)],
)
async def test_a_hanging_query_ends_with_its_time_out_or_cancellation(
    pool: Pool, way: Callable[[Connection], AbstractAsyncContextManager[None]], within_s: float, cancelled: bool
) -> None:
    """A stopped Postgres does not accept a request to cancel the query either.

    asyncpg itself waits 30 s for that, and a time-out around it does not end earlier.
    """
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


async def test_a_borrower_without_a_connection_can_still_be_cancelled(pool: Pool) -> None:
    """A task that has no connection at its time-out must be cancelled.

    An error instead of the cancellation would let the task continue as if Postgres were down.
    """
    failures: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    is_cut_off = asyncio.Event()

    async def dawdle() -> None:
        async with borrowed(pool, 0.2) as conn, in_transaction(conn):
            conn.add_termination_listener(lambda _conn: is_cut_off.set())
            await loop.create_future()

    dawdling = asyncio.create_task(dawdle())
    async with asyncio.timeout(20):
        await is_cut_off.wait()
        dawdling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dawdling
    assert await pool.fetchval("SELECT 1") == 1
    assert failures == []


async def test_a_closed_connection_is_not_closed_again_at_its_time_out(pool: Pool) -> None:
    """asyncpg closes a connection itself if its query cannot be cancelled."""
    failures: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    async with borrowed(pool, 0.2) as conn:
        conn.terminate()
        over = loop.create_future()
        loop.call_later(0.3, over.set_result, None)
        await over
    assert failures == []


async def test_a_failed_transaction_is_rolled_back(pool: Pool) -> None:
    async def fail() -> None:
        async with borrowed(pool) as conn, in_transaction(conn):
            await conn.execute("CREATE TABLE taken_back ()")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await pool.fetchval("SELECT to_regclass('taken_back')") is None


async def test_postgres_ends_the_queries_of_closed_connections(settings: Settings, pool: Pool) -> None:
    """Otherwise clients that try again and again would hold every connection of Postgres."""
    async with create_pool(settings.database, "cut off", stateless=True, init=end_statements_after(1.5)) as limited:
        for _ in range(3):
            with pytest.raises(UNAVAILABLE):
                async with borrowed(limited, 0.2) as conn:
                    await conn.execute("SELECT pg_sleep(600)")
        under_way = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cut off' AND state = 'active'"
        for _ in range(400):
            if not await pool.fetchval(under_way):
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("Postgres goes on for those who have hung up")


async def test_the_pool_of_the_api_sets_a_statement_time_out(settings: Settings) -> None:
    async with open_pool(settings.database) as limited:
        assert await limited.fetchval("SHOW statement_timeout") == "10s"
