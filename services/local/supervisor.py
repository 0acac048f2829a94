"""Runs processes in order, restarts those that crash, and leaves none behind."""

import asyncio
import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_STABLE_S = 30.0
_PIPE_GRACE_S = 1.0


class StopRequested(Exception):
    """SIGINT, SIGTERM or SIGHUP came while something was awaited."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process to run. ``env`` None inherits ours; ``log`` None passes its output on under its name."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    log: Path | None = None

    def options(self) -> dict[str, Any]:
        """For ``subprocess.Popen`` and for asyncio: a session of its own, so that the terminal's Ctrl-C reaches the
        supervisor alone, and on Linux the kernel's promise to stop it when the thread that started it ends."""
        options: dict[str, Any] = {
            "env": self.env,
            "cwd": self.cwd,
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
            "preexec_fn": _dies_with_parent(self.stop_signal),
        }
        if self.user is not None:
            options |= {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}
        return options


def _dies_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None  # what a killed parent leaves behind is stopped at the next start
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask_kernel


class _Run:
    def __init__(self, child: Child, process: asyncio.subprocess.Process) -> None:
        self.child = child
        self.process = process
        self.crashes = 0
        self.keeper: asyncio.Task[None] | None = None

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def kill(self) -> None:
        """The whole group: what a killed process had started must not outlive it."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Children in start order. Use as ``async with``: leaving stops them, last first."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._runs: list[_Run] = []
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self.stop_requested = asyncio.Event()

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP ask for an orderly stop; a second one hurries. Main thread only."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self.request_stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def request_stop(self) -> None:
        """Asks for the orderly stop; asked a second time, kills what still runs."""
        if self.stop_requested.is_set():
            self.say("killing what still runs")
            self._hurry.set()
        elif any(run.process.returncode is None for run in self._runs):
            self.say("stopping; once more to hurry")
        self.stop_requested.set()

    def say(self, text: str) -> None:
        """One line on stderr. A reader that went away must not stop the supervision."""
        self._write(self._err, f"relay: {text}\n")

    async def start(self, child: Child) -> None:
        """Starts a child and keeps it running. Raises ``OSError`` if it cannot be started the first time."""
        run = _Run(child, await self._spawn(child))
        run.keeper = asyncio.create_task(self._keep(run), name=f"keep {child.name}")
        self._runs.append(run)

    def pid(self, name: str) -> int:
        """The process id of that child's present process. Raises ``KeyError``."""
        return self._run(name).process.pid

    def crashes(self, name: str) -> int:
        """How often that child has ended by itself. Raises ``KeyError``."""
        return self._run(name).crashes

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which is cancelled by a request to stop. Raises ``StopRequested``."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self.stop_requested.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StopRequested
            return task.result()
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def stop(self) -> None:
        """Stops all, last started first: signal, grace time, SIGKILL. Nothing is restarted from here on."""
        self._stopping.set()
        for run in reversed(self._runs):
            await self._stop_one(run)
        self._runs.clear()

    def _run(self, name: str) -> _Run:
        for run in self._runs:
            if run.child.name == name:
                return run
        raise KeyError(name)

    async def _stop_one(self, run: _Run) -> None:
        if run.keeper is None:
            return
        run.send(run.child.stop_signal)
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait((run.keeper, hurry), timeout=run.child.grace_s, return_when=asyncio.FIRST_COMPLETED)
            if not run.keeper.done():
                if not self._hurry.is_set():
                    self.say(f"{run.child.name} did not stop within {run.child.grace_s:g} s; killing it")
                run.kill()
            await run.keeper
        finally:
            hurry.cancel()

    async def _keep(self, run: _Run) -> None:
        loop, backoff = asyncio.get_running_loop(), _FIRST_BACKOFF_S
        while True:
            started = loop.time()
            ending = _ending(await self._finish(run))
            if self._stopping.is_set():
                return
            run.crashes += 1
            if loop.time() - started >= _STABLE_S:
                backoff = _FIRST_BACKOFF_S
            self.say(f"{run.child.name} {ending}; restarting it in {backoff:g} s")
            while not await self._respawn(run, backoff):
                if self._stopping.is_set():
                    return
                backoff = min(backoff * 2, _LONGEST_BACKOFF_S)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_S)

    async def _respawn(self, run: _Run, delay_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        if self._stopping.is_set():
            return False
        try:
            run.process = await self._spawn(run.child)
        except OSError as error:
            self.say(f"{run.child.name} cannot be started: {error.strerror}")
            return False
        if self._stopping.is_set():  # the request came between the two, and found no process to signal
            run.send(run.child.stop_signal)
        return True

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        if child.log is None:
            return await asyncio.create_subprocess_exec(
                *child.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **child.options()
            )
        with child.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *child.argv, stdout=log, stderr=subprocess.STDOUT, **child.options()
            )

    async def _finish(self, run: _Run) -> int:
        """Passes the output on until the process has ended; its exit code."""
        if run.process.stdout is None:
            return await run.process.wait()
        pump = asyncio.create_task(self._pass_on(run.child.name, run.process.stdout))
        code = await run.process.wait()
        # A grandchild may hold the pipe open for ever.
        await asyncio.wait((pump,), timeout=_PIPE_GRACE_S)
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        return code

    async def _pass_on(self, name: str, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            self._write(self._out, "".join(f"{name} | {line.decode(errors='replace')}\n" for line in lines))
        if rest:
            self._write(self._out, f"{name} | {rest.decode(errors='replace')}\n")

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
