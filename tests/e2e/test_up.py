"""`relay up` as a separate process with an empty data directory."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.local.data_dir import STORED
from shared.infra.settings import inherited_environment
from tests.ports import free_port

_WITHIN_S = 120.0
_UP = """
import asyncio, pathlib, sys
from services.local.up import up
sys.exit(asyncio.run(up(pathlib.Path(sys.argv[1]), {port})))
"""


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="relay-test-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def port() -> int:
    return free_port()


class Up:
    """A running `relay up` and what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []

    def read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        eventually(
            lambda: text in self.output or self.process.poll() is not None, f"never printed {text!r}: {self.output}"
        )
        assert text in self.output, self.output

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_WITHIN_S)


@contextmanager
def running(directory: Path, port: int) -> Iterator[Up]:
    environment = {name: value for name, value in inherited_environment({}).items() if name not in STORED}
    command = [sys.executable, "-c", _UP.format(port=port), str(directory)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        started = Up(process)
        reader = threading.Thread(target=started.read)
        reader.start()
        try:
            yield started
        finally:
            process.kill()
            process.wait()
            reader.join(_WITHIN_S)


def group_of(directory: Path) -> list[int]:
    """Return the live processes with the directory in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(directory) in text:
            found.append(int(entry.name))
    return found


def stop_all(started: Up, directory: Path, number: signal.Signals) -> None:
    """Send the signal to `relay up`. Its exit code must fit, and none of its processes may be left."""
    if sys.platform == "linux":  # the processes are found in /proc
        assert len(group_of(directory)) >= 5  # relay up, Postgres, Redis, the API, the worker
    assert started.stop(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0), started.output
    eventually(lambda: sys.platform != "linux" or group_of(directory) == [], "processes are left")


def test_keys_are_printed_once_and_work_after_a_restart(directory: Path, port: int) -> None:
    """The first start is stopped by SIGTERM, the second by SIGINT."""
    with running(directory, port) as first:
        first.wait_for("Relay is ready on")
        first.wait_for("/v1/usage")
        assert "the first person who opens it" in first.output
        keys = [line.strip() for line in first.lines if line.startswith(("  sk_", "  pk_"))]
        assert len(keys) == 4
        stop_all(first, directory, signal.SIGTERM)
    with running(directory, port) as second:
        second.wait_for("/v1/usage")
        assert not any(key in second.output for key in keys)
        assert "$RELAY_KEY" in second.output
        assert "keys create" in second.output
        secret = next(key for key in keys if key.startswith("sk_live_"))
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/tokens",
            json={"room": "lobby", "identity": "ada"},
            headers={"Authorization": f"Bearer {secret}"},
            trust_env=False,
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
        stop_all(second, directory, signal.SIGINT)


def test_killing_up_leaves_no_process(directory: Path, port: int) -> None:
    with running(directory, port) as started:
        started.wait_for("/v1/usage")
        stop_all(started, directory, signal.SIGKILL)


def test_killed_child_is_restarted_and_a_second_start_is_refused(directory: Path, port: int) -> None:

    def is_ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=20).status_code == 200
        except httpx.TransportError:
            return False

    pid_files = {"postgres": directory / "postgres/postmaster.pid", "redis": directory / "redis/redis.pid"}
    with running(directory, port) as started:
        started.wait_for("/v1/usage")
        with running(directory, port) as second:
            assert second.process.wait(_WITHIN_S) == 1
        assert f"process {started.process.pid} already runs Relay in {directory}" in second.output
        for name in ("postgres", "redis", "worker"):
            before = _pid_of(name, directory, pid_files)
            os.kill(before, signal.SIGKILL)
            started.wait_for(f"{name} was killed by SIGKILL; restarting it in 0.2 s")
            eventually(partial(_is_back, name, directory, pid_files, before), f"{name} is not back")
            eventually(is_ready, "not ready again")
        stop_all(started, directory, signal.SIGTERM)


def _is_back(name: str, directory: Path, pid_files: dict[str, Path], before: int) -> bool:
    return _pid_of(name, directory, pid_files) not in (0, before)


def _pid_of(name: str, directory: Path, pid_files: dict[str, Path]) -> int:
    """Return the process id, or 0 if there is no such process."""
    if name in pid_files:
        with suppress(FileNotFoundError):
            return int(pid_files[name].read_text().split("\n")[0] or 0)
        return 0
    module = f"services.{name}.main".encode()
    for pid in group_of(directory):
        with suppress(OSError):  # the process may have ended
            if module in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def test_port_in_use_is_reported_before_any_server_starts(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with running(directory, taken) as started:
            assert started.process.wait(_WITHIN_S) == 1
    assert f"port {taken} is already in use; choose another with --port" in started.output
    assert not (directory / "postgres").exists()
