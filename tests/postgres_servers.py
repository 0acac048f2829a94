"""Extra Postgres and PgBouncer servers for tests, and a TCP switch between them."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from services.local.embedded import _postgres_binaries
from services.local.service_user import let_service_user_run, let_traverse, service_user
from shared.infra.settings import environment
from tests.ports import free_port

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
WITHIN_S = 60.0


def require_pgbouncer() -> str:
    """Return the program. Without it the test is skipped, or fails in CI, which installs it."""
    if PGBOUNCER is None:
        if environment().get("CI"):
            pytest.fail("CI needs pgbouncer: .ci/run installs it")
        pytest.skip("pgbouncer is not installed")
    return PGBOUNCER


def _owned(directory: Path) -> dict[str, str]:
    """Make a directory for the servers' user. Returns the options of Popen to run as that user."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = service_user()
    if user is None:
        return {}
    shutil.chown(directory, user)
    let_traverse(directory)
    return {"user": user, "group": user}


def until(true: Callable[[], bool], what: str) -> None:
    """Poll until it is true. Fails after ``WITHIN_S``."""
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, f"never became true: {what}"
        time.sleep(0.05)


class PostgresServer:
    """A Postgres server on a free TCP port, with trust authentication."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self._owner = _owned(directory)
        self.binaries = _postgres_binaries()
        let_service_user_run(self.binaries / "pg_basebackup")
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.binaries / program), *arguments],
            check=True,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            **self._owner,
        )  # type: ignore[call-overload] # the owner's names and values are those of Popen

    def init(self) -> None:
        self.run("initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D", str(self.data))

    def copy(self, primary: "PostgresServer") -> None:
        """Become a standby of ``primary``."""
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        self.run("pg_basebackup", *source, "-R", "-c", "fast", "-D", str(self.data))

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self, *settings: str) -> None:
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F", *(f"-c{setting}" for setting in settings)]
        log = (self.directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(self.binaries / "postgres"), "-D", str(self.data), *options], stdout=log, stderr=log, **self._owner
            )  # type: ignore[call-overload] # the owner's names and values are those of Popen
        until(self.answers, "Postgres answers")

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            return True
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def url(self, database: str = "relay", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "relay") -> list[tuple[object, ...]]:
        writable = "-cdefault_transaction_read_only=off"
        with psycopg.connect(self.url(database), autocommit=True, options=writable) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def cluster(directory: Path, *settings: str) -> Iterator[PostgresServer]:
    """A running server with an empty database `relay`."""
    made = PostgresServer(directory)
    try:
        made.init()
        made.start(*settings)
        made.execute("CREATE DATABASE relay", "postgres")
        yield made
    finally:
        made.stop()


@contextmanager
def pgbouncer(directory: Path, server: PostgresServer, pool_mode: str, extra: str = "") -> Iterator[int]:
    """Run PgBouncer in front of ``server`` and yield its port."""
    program = require_pgbouncer()
    port = free_port()
    owner = _owned(directory)
    config = directory / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {pool_mode}\ndefault_pool_size = 40\nmax_client_conn = 200\n{extra}"
    )
    config.write_text(config.read_text().replace("* = host=127.0.0.1", "* = user=postgres host=127.0.0.1"))
    config.chmod(0o644)
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen([program, str(config)], stdout=log, stderr=log, **owner)  # type: ignore[call-overload] # as above
    try:

        def answers() -> bool:
            with suppress(psycopg.OperationalError):
                psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/relay", connect_timeout=2).close()
                return True
            return False

        until(answers, "PgBouncer answers")
        yield port
    finally:
        process.terminate()
        process.wait(30)


class Switch:
    """A TCP port that forwards to ``target``, which a test can change. Open connections keep their server."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def switch(target: int) -> AsyncIterator[Switch]:
    """Run a switch on a free port until the block ends."""
    made = Switch(target)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
