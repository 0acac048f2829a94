"""Start processes in order, restart those that crash, and leave none running."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, TypeVar

from services.local.child import Child

T = TypeVar("T")
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_STABLE_S = 30.0
_PIPE_GRACE_S = 1.0


class StopRequested(Exception):
    """SIGINT, SIGTERM or SIGHUP arrived while something was awaited."""


class _Run:
    """A child with its current process, and the task that restarts it."""

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
        """Kill the whole process group, so that nothing that the process started outlives it."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Children in start order. Leaving the ``async with`` block stops them, last first."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._runs: list[_Run] = []
        self._stopping = asyncio.Event()
        self._kill_now = asyncio.Event()
        self.stop_requested = asyncio.Event()

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Stop in order at SIGINT, SIGTERM or SIGHUP, and at once at the second one. Main thread only."""
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
        """Request an orderly stop. The second request kills what still runs."""
        if self.stop_requested.is_set():
            self.say("killing what still runs")
            self._kill_now.set()
        elif any(run.process.returncode is None for run in self._runs):
            self.say("stopping; press Ctrl-C again to stop at once")
        self.stop_requested.set()

    def say(self, text: str) -> None:
        """Print one line on stderr. A closed stderr does not stop the supervision."""
        self._write(self._err, f"relay: {text}\n")

    async def start(self, child: Child) -> None:
        """Start a child and keep it running. Raises ``OSError`` if the first start fails."""
        run = _Run(child, await self._spawn(child))
        run.keeper = asyncio.create_task(self._keep(run), name=f"keep {child.name}")
        self._runs.append(run)

    def pid(self, name: str) -> int:
        """Return the process id of the child's current process. Raises ``KeyError``."""
        return self._run(name).process.pid

    def crashes(self, name: str) -> int:
        """Return how often the child has ended without a request to stop. Raises ``KeyError``."""
        return self._run(name).crashes

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``. A request to stop cancels it and raises ``StopRequested``."""
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
        """Stop all children, last started first: signal, grace time, SIGKILL. Restarts end here."""
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
        kill_now = asyncio.create_task(self._kill_now.wait())
        try:
            await asyncio.wait((run.keeper, kill_now), timeout=run.child.grace_s, return_when=asyncio.FIRST_COMPLETED)
            if not run.keeper.done():
                if not self._kill_now.is_set():
                    self.say(f"{run.child.name} did not stop within {run.child.grace_s:g} s; killing it")
                run.kill()
            await run.keeper
        finally:
            kill_now.cancel()

    async def _keep(self, run: _Run) -> None:
        loop, backoff = asyncio.get_running_loop(), _FIRST_BACKOFF_S
        while True:
            started = loop.time()
            exit_text = _exit_text(await self._finish(run))
            if self._stopping.is_set():
                return
            run.crashes += 1
            if loop.time() - started >= _STABLE_S:
                backoff = _FIRST_BACKOFF_S
            self.say(f"{run.child.name} {exit_text}; restarting it in {backoff:g} s")
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
        if self._stopping.is_set():  # the stop was requested during the start, when there was no process to signal
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
        """Pass the output on until the process ends, and return its exit code."""
        if run.process.stdout is None:
            return await run.process.wait()
        pump = asyncio.create_task(self._pass_on(run.child.name, run.process.stdout))
        code = await run.process.wait()
        # A grandchild can hold the pipe open forever.
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


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
