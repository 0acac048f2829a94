"""Behind a real PgBouncer: session mode works, with a schema too; transaction and statement mode are refused by name."""

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
    """Tables of each schema."""
    found = "SELECT schemaname, count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_)' GROUP BY 1"
    return {str(schema): int(str(count)) for schema, count in server.execute(found)}


def through(port: int, query: str = "") -> DatabaseUrl:
    return parse_database_url(f"postgresql://postgres@127.0.0.1:{port}/relay{query}")


# The last is what people set so that other clients' parameters are no error. PgBouncer then drops them in silence.
@pytest.mark.parametrize("extra", ["", "ignore_startup_parameters = extra_float_digits,search_path,options\n"])
async def test_session_mode_keeps_the_schema(server: PostgresServer, short_tmp: Path, extra: str) -> None:
    before = tables(server)
    schema = "ignoring" if extra else "strict"
    with pgbouncer(short_tmp / schema, server, "session", extra) as port:
        database = through(port, f"?schema={schema}")
        assert migrate(database) == known_migrations()
        async with create_pool(database, "tests", max_size=3) as pool:
            for _ in range(3):  # given back and taken again
                assert await pool.fetchval("SELECT current_schema()") == schema
            async with pool.acquire() as conn:
                assert await missing_migrations(conn, known_migrations()) == []
    assert tables(server).get("public", 0) == before.get("public", 0)
    assert tables(server)[schema] > 10


@pytest.mark.parametrize("extra", ["", "server_round_robin = 1\n", "ignore_startup_parameters = search_path,options\n"])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_modes_that_share_sessions_are_refused(
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


def test_migrating_refuses_transaction_mode_at_once(server: PostgresServer, short_tmp: Path) -> None:
    with (
        pgbouncer(short_tmp / "at-once", server, "transaction") as port,
        pytest.raises(TransactionPooling, match="transaction mode"),
    ):
        ensure_migrated(through(port, "?schema=nowhere"))


async def test_a_read_only_session_of_the_pooler_is_not_used_again_and_again(
    server: PostgresServer, short_tmp: Path
) -> None:
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
