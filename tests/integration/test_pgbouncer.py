"""Relay behind a real PgBouncer: session mode works, transaction and statement mode are refused.

Session mode also keeps the schema of the URL. The refusal names the mode.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.infra.migrations.migrate import migrate
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.migrations.startup import ensure_migrated
from shared.infra.postgres.database_url import DatabaseUrl, parse_database_url
from shared.infra.postgres.errors import ReadOnlySession, TransactionPooling
from shared.infra.postgres.pool import connect, create_pool
from tests.postgres_servers import PostgresServer, cluster, pgbouncer, require_pgbouncer


@pytest.fixture(scope="module")
def server(short_tmp: Path) -> Iterator[PostgresServer]:
    require_pgbouncer()
    with cluster(short_tmp / "pooled", "max_connections=100") as running:
        yield running


def tables(server: PostgresServer) -> dict[str, int]:
    """Return the number of tables of each schema."""
    found = "SELECT schemaname, count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_)' GROUP BY 1"
    return {str(schema): int(str(count)) for schema, count in server.execute(found)}


def through(port: int, query: str = "") -> DatabaseUrl:
    return parse_database_url(f"postgresql://postgres@127.0.0.1:{port}/relay{query}")


# Operators set `ignore_startup_parameters` for the parameters of other clients. PgBouncer then silently drops them.
@pytest.mark.parametrize("extra", ["", "ignore_startup_parameters = extra_float_digits,search_path,options\n"])
async def test_session_mode_keeps_the_schema(server: PostgresServer, short_tmp: Path, extra: str) -> None:
    before = tables(server)
    schema = "ignoring" if extra else "strict"
    with pgbouncer(short_tmp / schema, server, "session", extra) as port:
        database = through(port, f"?schema={schema}")
        assert migrate(database) == known_migrations()
        async with create_pool(database, "tests", max_size=3) as pool:
            for _ in range(3):  # released and acquired again
                assert await pool.fetchval("SELECT current_schema()") == schema
            async with pool.acquire() as conn:
                assert await missing_migrations(conn, known_migrations()) == []
    assert tables(server).get("public", 0) == before.get("public", 0)
    assert tables(server)[schema] > 10


@pytest.mark.parametrize("extra", ["", "server_round_robin = 1\n", "ignore_startup_parameters = search_path,options\n"])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_transaction_and_statement_mode_are_refused(
    server: PostgresServer, short_tmp: Path, mode: str, extra: str
) -> None:
    before = tables(server)
    directory = short_tmp / f"{mode}-{abs(hash(extra))}"
    with pgbouncer(directory, server, mode, extra) as port:
        database = through(port, "?schema=nowhere")
        for _ in range(2):
            with pytest.raises(TransactionPooling, match="pool_mode=session"):
                await connect(database)
    assert tables(server) == before
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert server.execute(locks) == [(0,)]


def test_migrations_refuse_transaction_mode_without_waiting(server: PostgresServer, short_tmp: Path) -> None:
    with (
        pgbouncer(short_tmp / "at-once", server, "transaction") as port,
        pytest.raises(TransactionPooling, match="transaction mode"),
    ):
        ensure_migrated(through(port, "?schema=nowhere"))


async def test_a_read_only_session_of_the_pooler_is_not_reused(server: PostgresServer, short_tmp: Path) -> None:
    server.execute("ALTER DATABASE relay SET default_transaction_read_only = on")
    with pgbouncer(short_tmp / "read-only", server, "session") as port:
        database = through(port)
        try:
            with pytest.raises(ReadOnlySession):
                await connect(database)
        finally:
            server.execute("ALTER DATABASE relay RESET default_transaction_read_only")
        conn = await connect(database)
        assert await conn.fetchval("SHOW transaction_read_only") == "off"
        await conn.close()
