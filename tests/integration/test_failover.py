"""A demoted primary that stays reachable: its connections are closed and no restart is needed.

`/readyz` reports the read-only server until the new primary is found.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from services.api.app import open_pool
from shared.infra.migrations.migrate import migrate
from shared.infra.postgres.database_url import DatabaseUrl, parse_database_url
from shared.infra.postgres.errors import ReadOnlySession
from shared.infra.postgres.pool import (
    UNAVAILABLE,
    Pool,
    borrowed,
    connect,
    create_pool,
    in_transaction,
    renew_if_read_only,
)
from shared.infra.settings import Settings
from tests.http_clients import loopback_client
from tests.integration.conftest import serving
from tests.postgres_servers import PostgresServer, cluster, switch

WITHIN_S = 30.0
READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only = on"


@pytest.fixture
def pair(short_tmp: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary with Relay's tables, and its standby."""
    number = len(list(short_tmp.glob("primary-*")))
    with cluster(short_tmp / f"primary-{number}", "wal_level=replica", "max_connections=60") as primary:
        migrate(parse_database_url(primary.url()))
        standby = PostgresServer(short_tmp / f"standby-{number}")
        try:
            standby.copy(primary)
            standby.start("max_connections=60")
            yield primary, standby
        finally:
            standby.stop()


def demote(primary: PostgresServer) -> None:
    """Make the server read-only. It still answers, and existing sessions become read-only too."""
    primary.execute(READ_ONLY)
    primary.execute("SELECT pg_reload_conf()")


def promote(standby: PostgresServer) -> None:
    standby.execute("SELECT pg_promote(true, 60)", "postgres")


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not await holds():
        assert time.monotonic() < deadline, f"never became true: {what}"
        await asyncio.sleep(0.05)


async def test_the_api_moves_to_the_new_primary(
    pair: tuple[PostgresServer, PostgresServer], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    primary, standby = pair
    async with switch(primary.port) as led:
        database = parse_database_url(f"postgresql://postgres@127.0.0.1:{led.port}/relay")
        async with serving(msgspec.structs.replace(settings, database=database)) as url, loopback_client() as client:

            async def postgres_is(state: str) -> bool:
                answer = (await client.get(f"{url}/readyz")).json()
                return bool(answer["checks"]["postgres"] == state)

            await eventually(lambda: postgres_is("ok"), "ready at first")
            await asyncio.to_thread(demote, primary)
            await eventually(lambda: postgres_is("read-only"), "the demoted primary is noticed")
            await asyncio.to_thread(promote, standby)
            led.target = standby.port
            await eventually(lambda: postgres_is("ok"), "ready again")
            await eventually(
                lambda: asyncio.to_thread(listens, standby), "key changes are listened for on the new primary"
            )
    assert [record for record in caplog.records if record.exc_info] == []


def listens(server: PostgresServer) -> bool:
    return server.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'relay api keys'") != []


async def test_a_pool_moves_to_the_new_primary(pair: tuple[PostgresServer, PostgresServer]) -> None:
    primary, standby = pair
    async with switch(primary.port) as led:
        database = parse_database_url(f"postgresql://postgres@127.0.0.1:{led.port}/relay")
        async with create_pool(database, "tests", max_size=3) as pool:
            holders = [await pool.acquire() for _ in range(3)]
            for conn in holders:
                await pool.release(conn)
            await asyncio.to_thread(demote, primary)

            async def writes() -> bool:
                try:
                    async with borrowed(pool) as conn, in_transaction(conn):
                        await conn.execute("CREATE TABLE IF NOT EXISTS written ()")
                except UNAVAILABLE as error:
                    await renew_if_read_only(pool, error)
                    return False
                return True

            async def refused() -> bool:
                return not await writes()

            await eventually(refused, "the demoted primary is noticed")
            await asyncio.to_thread(promote, standby)
            led.target = standby.port
            await eventually(writes, "the new primary is found")
    assert standby.execute("SELECT to_regclass('written') IS NOT NULL") == [(True,)]


async def test_the_first_writable_host_is_used(pair: tuple[PostgresServer, PostgresServer]) -> None:
    primary, standby = pair
    database = parse_database_url(f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/relay")
    conn = await connect(database)
    assert await conn.fetchval("SELECT inet_server_port()") == primary.port
    await conn.close()
    assert migrate(database) == []
    with pytest.raises(ReadOnlySession):
        await connect(parse_database_url(standby.url()))


async def test_read_only_connections_are_replaced(database: DatabaseUrl, pool: Pool) -> None:
    """A setting of the database holds for a session's whole life, even after the setting is reset."""
    name = await pool.fetchval("SELECT quote_ident(current_database())")
    async with open_pool(database) as limited:
        async with borrowed(limited) as conn:
            pid = conn.get_server_pid()
        await pool.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await pool.execute("SELECT pg_terminate_backend($1, 10000)", pid)
        with pytest.raises(UNAVAILABLE):
            async with borrowed(limited) as conn:
                await conn.execute("CREATE TABLE written ()")
        await pool.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

        async def writes() -> bool:
            try:
                async with borrowed(limited) as conn:
                    await conn.execute("CREATE TABLE IF NOT EXISTS written ()")
            except UNAVAILABLE:
                return False
            return True

        await eventually(writes, "a session that takes writes")


async def test_a_stricter_default_isolation_level_is_not_used(database: DatabaseUrl, pool: Pool) -> None:
    name = await pool.fetchval("SELECT quote_ident(current_database())")
    await pool.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    conn = await connect(database)
    assert await conn.fetchval("SHOW transaction_isolation") == "read committed"
    await conn.close()
