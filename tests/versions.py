"""`make test-versions`: runs the integration tests with other versions of Postgres, Redis or Valkey.

python -m tests.versions --postgres /usr/lib/postgresql/15/bin --redis /usr/bin/redis-server [pytest arguments]
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis

from shared.infra.settings import inherited_environment

DATABASE_VARIABLE, REDIS_VARIABLE = "RELAY_TEST_DATABASE_URL", "RELAY_TEST_REDIS_URL"
# Versions affect SQL, streams and scripts. These tests check pages, HTTP and LiveKit's room service, which do not depend on a
# version, or start separate servers.
_OTHERS = (
    "portal_*", "schemathesis", "snippets", "generated_client", "reference_page", "openapi", "connections", "problems",
    "room_service", "embedded", "redis_cluster",
)  # fmt: skip
DEFAULT_TESTS = ("tests/integration", *(f"--ignore-glob=*/test_{name}.py" for name in _OTHERS))
# ``--only-redis``: the tests that use Redis, for a compatible server.
REDIS_TESTS = (
    "as_of", "doctor", "fold", "fold_contention", "idempotency", "large_events", "limits", "metrics", "redis_batch",
    "redis_permissions", "partitions",
    "poisoned_events", "set_aside", "volume", "webhooks",
)  # fmt: skip


def newest_postgres() -> str:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return str(found[-1].parent) if found else ""


@contextmanager
def postgres(binaries: Path, directory: Path) -> Iterator[str]:
    """Run Postgres and yield the URL of its database `relay`.

    If the tests run as root, the server runs as Debian's user postgres, because Postgres refuses root.
    """
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data, sockets = directory / "data", directory / "pg"
    sockets.mkdir()
    if as_user:
        shutil.chown(directory, "postgres")
        shutil.chown(sockets, "postgres")
    init = [str(binaries / "initdb"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", str(data)]
    subprocess.run([*as_user, *init], check=True, stdout=subprocess.DEVNULL)
    serve = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        "-k",
        str(sockets),
        "-h",
        "",
        "-F",
        "-c",
        "max_connections=300",
    ]
    with (directory / "postgres.log").open("wb") as log, subprocess.Popen([*as_user, *serve], stderr=log) as process:
        try:
            maintenance = f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}"
            _wait_for(lambda: psycopg.connect(maintenance, connect_timeout=2).close())
            with psycopg.connect(maintenance, autocommit=True) as conn:
                conn.execute("CREATE DATABASE relay")
                row = conn.execute("SHOW server_version").fetchone()
            print(f"Postgres {row[0] if row else '?'}", flush=True)
            yield maintenance.replace("/postgres?", "/relay?")
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def redis_server(program: Path, directory: Path) -> Iterator[str]:
    """Run Redis, Valkey or a compatible server, and yield its URL."""
    socket = directory / "redis.sock"
    options = {
        "port": "0", "unixsocket": str(socket), "dir": str(directory), "appendonly": "yes", "appendfsync": "always",
        "save": "", "maxmemory-policy": "noeviction",
    }  # fmt: skip
    argv = [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(unix_socket_path=str(socket)) as client:
                _wait_for(client.ping)
                info = client.info("server")
                name = "Valkey" if "valkey_version" in info else "Redis"
                print(f"{name} {info.get('valkey_version') or info['redis_version']}", flush=True)
            yield f"unix://{quote(str(socket))}?db=0"
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(ready: object) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            ready()  # type: ignore[operator] # a function without parameters
            return
        except (psycopg.OperationalError, redis.RedisError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", default=newest_postgres(), help="the directory of initdb and postgres")
    parser.add_argument("--redis", default=shutil.which("redis-server") or "", help="the server's program")
    parser.add_argument("--only-redis", action="store_true", help="only the tests that use Redis")
    given, rest = parser.parse_known_args()
    default = [f"tests/integration/test_{name}.py" for name in REDIS_TESTS] if given.only_redis else DEFAULT_TESTS
    if not given.postgres or not given.redis:
        parser.error("there is no Postgres or no Redis here; name them with --postgres and --redis")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the servers are stopped
    with tempfile.TemporaryDirectory(prefix="relay-test-") as directory:
        Path(directory).chmod(0o755)
        stores = Path(directory) / "stores"
        stores.mkdir()
        with (
            postgres(Path(given.postgres), stores) as database_url,
            redis_server(Path(given.redis), stores) as redis_url,
        ):
            environment = inherited_environment({DATABASE_VARIABLE: database_url, REDIS_VARIABLE: redis_url})
            command = [sys.executable, "-m", "pytest", *(rest or default)]
            return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
