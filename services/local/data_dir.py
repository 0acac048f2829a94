"""The data directory of `relay up`: its lock, and the environment that other commands read.

Also stops the servers that a killed `relay up` left running.
"""

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import RelayError
from shared.infra import settings

STORED = (
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_STREAMS_URL",
    "LIVEKIT_URL",
    "LIVEKIT_API_URL",
    "LIVEKIT_API_KEY",
    "LIVEKIT_API_SECRET",
    "LIVEKIT_API_KEY_PREVIOUS",
    "LIVEKIT_API_SECRET_PREVIOUS",
    "AUTH_SECRET",
    "RELAY_API_URL",
    "PORT",
)
# The key pair that is compiled into `livekit-server --dev`.
LIVEKIT_DEV_URL = "ws://127.0.0.1:7880"
LIVEKIT_DEV_KEY = "devkey"
LIVEKIT_DEV_SECRET = "secret"  # noqa: S105
_POLL_S = 0.02
_LEFTOVER_WITHIN_S = 10.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class DataDirBusy(RelayError):
    """Another process holds the data directory.

    ``pid`` is None if that process has not written its process id yet.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid is not None else "another process"
        stop = f"stop it first (`kill {pid}`)" if pid is not None else "stop it first"
        super().__init__(f"{who} already runs Relay in {path}; {stop}, or choose another directory with --data-dir")
        self.path = path
        self.pid = pid


class DataDirUnusable(RelayError):
    """The data directory cannot be created, read or written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot use {path}: {reason}")
        self.path = path


class DataDir:
    """One directory, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._environment_file = self.path / "environment.json"
        self._lock_file = self.path / "lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory. The kernel releases the lock when this process ends, even by SIGKILL.

        Raises ``DataDirBusy`` and ``DataDirUnusable``.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataDirUnusable(self.path, error.strerror or "no access") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataDirBusy(self.path, _pid(os.pread(lock, 32, 0))) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    def stored(self) -> dict[str, str]:
        """Return the environment of the last `relay up` in this directory, or an empty one.

        Raises ``DataDirUnusable``.
        """
        try:
            content = json.loads(self._environment_file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DataDirUnusable(self._environment_file, str(error)) from None
        return {name: value for name, value in content.items() if name in STORED and isinstance(value, str)}

    def environment(self) -> dict[str, str]:
        """Return the environment with which other commands reach the instance that runs here.

        A variable of this process overrides a stored one.
        """
        return {**self.stored(), **_given()}

    def planned(self, port: int | None) -> dict[str, str]:
        """Return the environment for a new instance, without the addresses of embedded servers.

        Only AUTH_SECRET is taken from an earlier start, so that an option applies to one start only.
        """
        given = _given()
        port_text = str(port) if port is not None else given.get("PORT", str(settings.DEFAULT_PORT))
        secret = given.get("AUTH_SECRET") or self.stored().get("AUTH_SECRET") or secrets.token_urlsafe(48)
        # An invalid PORT is reported once, and not a second time as an invalid URL.
        url_port = port_text if port_text.isdecimal() and int(port_text) <= 65535 else settings.DEFAULT_PORT
        defaults = {"RELAY_API_URL": f"http://127.0.0.1:{url_port}", **_livekit_defaults(given)}
        return {**defaults, **given, "AUTH_SECRET": secret, "PORT": port_text}

    def store(self, environment: Mapping[str, str]) -> None:
        """Write the environment for ``environment()``. Only the owner may read it, because it holds secrets."""
        content = json.dumps({name: environment[name] for name in STORED if name in environment}, indent=2)
        scratch = self._environment_file.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content + "\n")
        scratch.replace(self._environment_file)


def _livekit_defaults(given: Mapping[str, str]) -> dict[str, str]:
    """Return the published development pair, for a LiveKit on this machine only.

    On a public deployment anybody could sign webhooks with it.
    """
    url = given.get("LIVEKIT_URL", LIVEKIT_DEV_URL)
    try:
        local = urlsplit(url).hostname in _LOOPBACK
    except ValueError:
        local = False
    pair = {"LIVEKIT_API_KEY": LIVEKIT_DEV_KEY, "LIVEKIT_API_SECRET": LIVEKIT_DEV_SECRET}
    # Half a pair is a mistake that the settings report, so it is not completed here.
    use_pair = local and not any(name in given for name in pair)
    return {"LIVEKIT_URL": url, **(pair if use_pair else {})}


def _given() -> dict[str, str]:
    environment = settings.environment()
    return {name: environment[name] for name in STORED if environment.get(name, "").strip()}


def _pid(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None


def stop_leftover(pid_file: Path, marker: str, stop_signal: signal.Signals) -> None:
    """Stop a server that an earlier crash left running. Hold the data directory's lock.

    The process is stopped only if ``marker`` is in its command line, because process ids are used again.
    """
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    deadline = time.monotonic() + _LEFTOVER_WITHIN_S
    with suppress(ProcessLookupError):
        if marker in _command_line(pid):
            os.kill(pid, stop_signal)
        while marker in _command_line(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline += _LEFTOVER_WITHIN_S
            time.sleep(_POLL_S)


def _command_line(pid: int) -> str:
    """Return the command line of a process; empty for one that has ended, or a zombie."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listing = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(listing, capture_output=True, text=True, check=False).stdout
