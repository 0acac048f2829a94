"""One embedded Postgres and Redis for each process that runs tests; a fresh, migrated database for each test that asks."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis
from psycopg import sql

from services.local.embedded import EmbeddedServers, embedded_servers
from shared.infra.settings import DatabaseUrl, RateLimits, Settings, environment, parse_database_url
from tests.examples import examples
from tests.versions import DATABASE_VARIABLE, REDIS_VARIABLE

_TEMPLATE = "relay_template"
_numbers = itertools.count(1)

# No example fails for how long it took: that says something of the machine. And --hypothesis-seed decides in CI too, where
# Hypothesis alone would always try the same examples.
hypothesis.settings.register_profile(
    "relay",
    max_examples=examples(100),
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("relay")


# A copy of the template is some 500 files, one for each of hundreds of tests: in memory they take a fifth of the time, and a
# disk that stalls fails no test.
_MEMORY = Path("/dev/shm")  # noqa: S108  # the directory is made by mkdtemp
_ROOM_BYTES = 3 * 2**30


def in_memory() -> Path | None:
    """Where files lie in memory, if there is room for the servers' (containers often have 64 MiB)."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES else None


# Minutes each: one of these begun last would be all that runs by then.
_LONG = ("test_losses.py", "test_portal.py", "test_worker_killed.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the end-to-end tests first and together in each process of a parallel run.

    They wait most of the time, so the time-dependent ones disturb each other least.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (item.path.name not in _LONG, "e2e" not in item.path.parts))


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name; pytest's own may not."""
    path = Path(tempfile.mkdtemp(prefix="relay-test-", dir=in_memory()))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(short_tmp: Path) -> Iterator[EmbeddedServers]:
    """The embedded ones, or those that tests/versions.py runs."""
    given = environment()
    if DATABASE_VARIABLE in given:
        yield EmbeddedServers(given[DATABASE_VARIABLE], given[REDIS_VARIABLE], 0, 0)
        return
    with embedded_servers(short_tmp / "servers", fsync=False) as running:
        yield running


def _url(servers: EmbeddedServers, name: str) -> str:
    return servers.database_url.replace("/relay?", f"/{name}?")


@pytest.fixture(scope="session")
def migrated_template(servers: EmbeddedServers) -> str:
    """The name of a database with every migration applied and nobody connected, to be copied."""
    from shared.infra.migrations.migrate import migrate

    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    migrate(parse_database_url(_url(servers, _TEMPLATE)))
    return _TEMPLATE


@pytest.fixture
def empty_database(servers: EmbeddedServers) -> Iterator[DatabaseUrl]:
    """A database without any table, for tests of the migrations."""
    with fresh_database(servers, "template1") as made:
        yield made


@pytest.fixture
def database(servers: EmbeddedServers, migrated_template: str) -> Iterator[DatabaseUrl]:
    """A migrated database of this test's own."""
    with fresh_database(servers, migrated_template) as made:
        yield made


@contextmanager
def fresh_database(servers: EmbeddedServers, template: str) -> Iterator[DatabaseUrl]:
    """A copy of ``template``, dropped at the end of the block."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        yield parse_database_url(_url(servers, name))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> str:
    """The session's Redis, emptied."""
    client = redis.Redis.from_url(servers.redis_url)
    try:
        client.flushall()
    finally:
        client.close()
    return servers.redis_url


@pytest.fixture
def settings(database: DatabaseUrl, redis_url: str) -> Settings:
    return settings_for(database, redis_url)


def settings_for(database: DatabaseUrl, redis_url: str) -> Settings:
    """What the services run with, for a LiveKit in development mode."""
    return Settings(
        database=database,
        redis_url=redis_url,
        livekit_url="ws://127.0.0.1:7880",
        livekit_api_url="http://127.0.0.1:7880",
        livekit_api_key="devkey",
        livekit_api_secret="secret",
        auth_secret="x" * 32,
        relay_api_url="http://127.0.0.1",
        # A test sends more requests in a second than a client would; limits have separate tests.
        rate_limits=RateLimits(api_per_key=0, api_per_project=0),
    )
