"""Errors of services and commands if Postgres is not usable: one line for each kind."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.infra.migrations.startup import _missing_within, migrate_when_ready
from shared.infra.postgres.database_url import parse_database_url
from shared.infra.postgres.errors import DatabaseUnusable
from shared.infra.postgres.pool import connect
from shared.infra.settings import Settings, inherited_environment
from tests.ports import free_port
from tests.postgres_servers import PostgresServer, cluster


@pytest.fixture(scope="module")
def server(short_tmp: Path) -> Iterator[PostgresServer]:
    """A server with passwords and a role with few rights."""
    with cluster(short_tmp / "strict", "max_connections=12", "reserved_connections=0") as running:
        running.execute("CREATE ROLE weak LOGIN PASSWORD 'right'")
        running.execute("CREATE ROLE single LOGIN CONNECTION LIMIT 0")
        running.execute("CREATE DATABASE closed", "postgres")
        running.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        hba = running.data / "pg_hba.conf"
        hba.write_text(f"host all weak 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
        running.execute("SELECT pg_reload_conf()")
        yield running


KINDS: dict[str, tuple[str, str]] = {
    "wrong password": ("postgresql://weak:wrong@127.0.0.1:{port}/relay", 'password authentication failed for user "weak"'),
    "missing role": ("postgresql://nobody@127.0.0.1:{port}/relay", 'role "nobody" does not exist'),
    "missing database": ("postgresql://postgres@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
    "no right to connect": ("postgresql://weak:right@127.0.0.1:{port}/closed", "GRANT CONNECT ON DATABASE"),
    "too many connections": ("postgresql://single@127.0.0.1:{port}/relay", "too many connections"),
    "no right to make tables": (
        "postgresql://weak:right@127.0.0.1:{port}/relay",
        "GRANT USAGE, CREATE ON SCHEMA public TO weak",
    ),
    "no right to make the schema": (
        "postgresql://weak:right@127.0.0.1:{port}/relay?schema=mine", "CREATE SCHEMA mine AUTHORIZATION weak"
    ),
    "no TLS": ("postgresql://postgres@127.0.0.1:{port}/relay?sslmode=require", "offers no TLS"),
    "a certificate file that is missing": (
        "postgresql://postgres@127.0.0.1:{port}/relay?sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert"
    ),
    "a setting that does not exist": ("postgresql://postgres@127.0.0.1:{port}/relay?TimeZone=Mars", "TimeZone"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unusable_database_is_reported_in_one_line(server: PostgresServer, kind: str) -> None:
    url, said = KINDS[kind]
    database = parse_database_url(url.format(port=server.port))
    with pytest.raises(DatabaseUnusable) as refused:
        await asyncio.to_thread(migrate_when_ready, database)
    line = str(refused.value)
    assert said in line
    assert "\n" not in line
    assert "wrong@" not in line
    assert not refused.value.passing


UNREACHABLE: dict[str, tuple[str, str]] = {
    "refused": ("postgresql://u@127.0.0.1:{port}/relay", "the connection is refused"),
    "unknown host": ("postgresql://u@no-such-host.invalid/relay", "the host 'no-such-host.invalid' is unknown"),
    "no socket": ("postgresql://u@/relay?host=/nowhere", "there is no socket /nowhere/.s.PGSQL.5432"),
}


@pytest.mark.parametrize("kind", UNREACHABLE)
async def test_an_unreachable_database_is_waited_for(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    url, said = UNREACHABLE[kind]
    with caplog.at_level(logging.WARNING), pytest.raises(DatabaseUnusable, match="cannot be reached") as refused:
        await _missing_within(parse_database_url(url.format(port=free_port())), wait_s=1.0)
    assert refused.value.passing
    assert said in str(refused.value)
    assert [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()] == [
        f"{refused.value}; waiting up to 1 s for it"
    ]


async def test_a_silent_database_times_out_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/relay?connect_timeout=2"
        with pytest.raises(DatabaseUnusable, match="did not answer within 2 s") as refused:
            await connect(parse_database_url(url))
    assert refused.value.passing


async def test_a_database_that_starts_later_is_found(server: PostgresServer) -> None:
    port = free_port()
    late = parse_database_url(f"postgresql://postgres@127.0.0.1:{port}/relay")
    waiting = asyncio.create_task(_missing_within(late, wait_s=30.0))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    async with await asyncio.start_server(forward, "127.0.0.1", port):
        assert await waiting != []


@pytest.mark.parametrize("command", [["migrate"], ["projects", "list"], ["doctor", "--json"]])
def test_commands_report_a_database_error_without_traceback(
    server: PostgresServer, settings: Settings, command: list[str]
) -> None:
    url = f"postgresql://weak:wrong@127.0.0.1:{server.port}/relay"
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", *command],
        env=inherited_environment({
            "DATABASE_URL": url, "REDIS_URL": settings.redis_url, "LIVEKIT_URL": "ws://127.0.0.1:1", "LIVEKIT_API_KEY": "key",
            "LIVEKIT_API_SECRET": "secret", "AUTH_SECRET": "x" * 32, "RELAY_API_URL": "http://127.0.0.1:1",
        }),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "password authentication failed for user" in said
    assert "Traceback" not in said
    assert "wrong@" not in said
