"""The embedded servers: written data survives a kill, and the servers start again on it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest
import redis
import redis.asyncio

from services.local.data_dir import DataDirBusy, stop_leftover
from services.local.embedded import (
    EmbeddedServers,
    _start,
    embedded_servers,
    prepare_postgres,
    prepare_redis,
)
from services.local.service_user import EmbeddedServerFailed, make_private
from shared.infra.migrations.migrate import migrate
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl, Settings, parse_database_url


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="relay-test-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


def test_data_survives_a_kill(directory: Path) -> None:
    with embedded_servers(directory) as servers:
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 41 AS answer")
            connection.execute("UPDATE kept SET answer = 42")
        client = redis.Redis.from_url(servers.redis_url)
        client.set("kept", "yes")
        client.close()
        os.kill(servers.postgres_pid, signal.SIGKILL)
        os.kill(servers.redis_pid, signal.SIGKILL)
    with embedded_servers(directory) as servers:
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchall() == [(42,)]
        client = redis.Redis.from_url(servers.redis_url)
        assert client.get("kept") == b"yes"
        client.close()


def test_a_busy_data_directory_is_refused_with_its_owner_and_a_remedy(directory: Path) -> None:
    with embedded_servers(directory), pytest.raises(DataDirBusy) as refused, embedded_servers(directory):
        pass
    assert str(os.getpid()) in str(refused.value)
    assert "--data-dir" in str(refused.value)


def test_long_path_gets_a_private_socket_directory(directory: Path) -> None:
    with embedded_servers(directory / ("deep-" * 20), fsync=False) as servers:
        socket_dir = Path(servers.redis_url.removeprefix("unix://").removesuffix("?db=0")).parent
        assert socket_dir.stat().st_mode & 0o777 == 0o700
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    shutil.rmtree(socket_dir, ignore_errors=True)


# Every printable character. Commas, quotes and outer spaces in a path have a special meaning for servers and clients.
_ONE_PATH = "my data !#$%&'()*+-.:;<=>?@[\\]^_`{|}~é"


@pytest.mark.parametrize("name", [_ONE_PATH, 'a,b "c"', " outer "])
async def test_a_data_directory_may_have_any_name(directory: Path, name: str) -> None:
    with embedded_servers(directory / name, fsync=False) as servers:
        inside = (directory / name / "run" / ".s.PGSQL.5432").exists()
        assert inside == ("," not in name)
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        database = parse_database_url(servers.database_url)
        assert migrate(database) == known_migrations()
        conn = await connect(database)
        assert await missing_migrations(conn, known_migrations()) == []
        await conn.close()
        client = redis.Redis.from_url(servers.redis_url)
        assert client.ping()
        client.close()


def test_directory_open_to_others_is_refused(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(EmbeddedServerFailed):
        make_private(directory)


async def test_urls_work_with_every_client(servers: EmbeddedServers, settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database.dsn)
    assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    await connection.close()
    client = redis.asyncio.from_url(settings.redis_url)
    await client.set("a", "1")
    assert await client.get("a") == b"1"
    await client.aclose()
    pool = redis.ConnectionPool.from_url(settings.redis_url)
    blocking = redis.Redis(connection_pool=pool)
    assert await asyncio.to_thread(blocking.get, "a") == b"1"
    pool.disconnect()


def test_redis_syncs_to_disk_before_it_answers(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    policy = {**client.config_get("append*"), **client.config_get("maxmemory-policy"), **client.config_get("save")}
    client.close()
    assert policy["appendonly"] == "yes"
    assert policy["appendfsync"] == "always"
    assert policy["maxmemory-policy"] == "noeviction"
    assert policy["save"] == ""


def test_databases_are_separate(database: DatabaseUrl, empty_database: DatabaseUrl) -> None:
    with psycopg.connect(database.dsn) as one, psycopg.connect(empty_database.dsn) as other:
        count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert one.execute(count).fetchone() != (0,)
        assert other.execute(count).fetchone() == (0,)


def test_servers_left_by_a_crash_are_stopped_first(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    left = []
    for server in (prepare_postgres(directory), prepare_redis(directory)):
        left.append(_start(server.child))
        deadline = time.monotonic() + 30
        while not server.ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with embedded_servers(directory) as servers:
        assert [process.wait(10) for process in left] == [0, 0]
        assert servers.postgres_pid != left[0].pid
        assert servers.redis_pid != left[1].pid


def test_a_process_with_a_reused_id_is_not_stopped(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        pid_file = directory / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n")
        stop_leftover(pid_file, str(directory), signal.SIGKILL)
        assert stranger.poll() is None
        stranger.kill()
