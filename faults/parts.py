"""The parts of a running Relay, each a process that can be killed and started again."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from services.local.embedded import EmbeddedServer, prepare_postgres, prepare_redis
from shared.infra.settings import inherited_environment

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN_S = 60.0
_POLL_S = 0.02


class Part:
    """One process. ``launch`` starts it. ``ready`` is True once it answers; it blocks for a short time."""

    def __init__(
        self, name: str, launch: Callable[[], "subprocess.Popen[bytes]"], ready: Callable[["Part"], bool]
    ) -> None:
        self.name, self._launch, self._ready = name, launch, ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        It is started again if it ends early, because children of the killed process still hold its directory.
        """
        self.process, deadline = self._launch(), time.monotonic() + READY_WITHIN_S
        while not self._ready(self):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready within {READY_WITHIN_S:g} s")
            if self.process.poll() is not None:
                self.process = self._launch()
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


def server(prepare: Callable[[Path], EmbeddedServer], home: Path) -> tuple[Part, str]:
    """Return an embedded server that syncs to disk, and its URL.

    Preparing it again after a kill removes what the killed one left.
    """

    def launch() -> "subprocess.Popen[bytes]":
        child = prepare(home).child
        assert child.log is not None
        with child.log.open("ab") as log:
            return subprocess.Popen(child.argv, stdout=log, stderr=subprocess.STDOUT, **child.options())

    prepared = prepare(home)
    return Part(prepared.child.name, launch, lambda _: prepared.ready()), prepared.url


def postgres(home: Path) -> tuple[Part, str]:
    return server(prepare_postgres, home)


def redis(home: Path) -> tuple[Part, str]:
    return server(prepare_redis, home)


def service(name: str, module: str, env: dict[str, str], home: Path, probe: str) -> Part:
    """Return an api or a worker. It is ready once ``probe`` answers 200."""
    log = home / f"{name}.log"

    def launch() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=inherited_environment(env),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    return Part(name, launch, _answers(probe))


def _answers(url: str) -> Callable[[Part], bool]:
    def ready(_: Part) -> bool:
        try:
            return httpx.get(url, trust_env=False, timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    return ready
