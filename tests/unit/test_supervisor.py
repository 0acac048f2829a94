"""The supervisor reports crashes, restarts children, stops them in order and leaves no process."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.local.child import Child
from services.local.supervisor import StopRequested, Supervisor

_WITHIN_S = 10.0
_SAYS_BYE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye"), sys.exit()))
print("up")
time.sleep(600)
"""


async def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def sleeper(name: str) -> Child:
    return Child(name=name, argv=("sleep", "600"))


def script(name: str, code: str, grace_s: float = 10.0) -> Child:
    return Child(name=name, argv=(sys.executable, "-u", "-c", code), grace_s=grace_s)


async def test_crashed_child_is_reported_and_restarted() -> None:
    err = io.StringIO()
    async with Supervisor(err=err) as supervisor:
        await supervisor.start(sleeper("api"))
        first = supervisor.pid("api")
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: supervisor.pid("api") != first)
        assert supervisor.crashes("api") == 1
    assert "api was killed by SIGKILL; restarting it in 0.2 s" in err.getvalue()


async def test_exit_code_is_reported_and_backoff_grows() -> None:
    err = io.StringIO()
    async with Supervisor(err=err) as supervisor:
        await supervisor.start(script("api", "raise SystemExit(3)"))
        await eventually(lambda: supervisor.crashes("api") >= 2)
    assert "api exited with code 3; restarting it in 0.2 s" in err.getvalue()
    assert "api exited with code 3; restarting it in 0.4 s" in err.getvalue()


async def test_stop_ends_all_children_in_reverse_order() -> None:
    out = io.StringIO()
    supervisor = Supervisor(out=out)
    for name in ("one", "two"):
        await supervisor.start(script(name, _SAYS_BYE))
    await eventually(lambda: out.getvalue().count("up") == 2)
    pids = [supervisor.pid("one"), supervisor.pid("two")]
    await supervisor.stop()
    assert all(gone(pid) for pid in pids)
    assert [line for line in out.getvalue().splitlines() if "bye" in line] == ["two | bye", "one | bye"]


async def test_child_that_ignores_sigterm_is_killed_after_its_grace_period() -> None:
    out, err = io.StringIO(), io.StringIO()
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(600)"
    async with Supervisor(out=out, err=err) as supervisor:
        await supervisor.start(script("deaf", deaf, grace_s=0.1))
        await eventually(lambda: "up" in out.getvalue())
        pid = supervisor.pid("deaf")
    assert gone(pid)
    assert "deaf did not stop within 0.1 s; killing it" in err.getvalue()


async def test_second_stop_request_kills_running_children() -> None:
    out, err = io.StringIO(), io.StringIO()
    deaf = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(600)"
    async with asyncio.timeout(_WITHIN_S):
        async with Supervisor(out=out, err=err) as supervisor:
            await supervisor.start(script("deaf", deaf, grace_s=600))
            await eventually(lambda: "up" in out.getvalue())
            supervisor.request_stop()
            supervisor.request_stop()
    assert "killing what still runs" in err.getvalue()


async def test_stop_during_backoff_restarts_nothing() -> None:
    async with Supervisor(err=io.StringIO()) as supervisor:
        await supervisor.start(sleeper("api"))
        first = supervisor.pid("api")
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: supervisor.crashes("api") == 1)
        await supervisor.stop()
    assert gone(first)


async def test_stop_request_cancels_the_awaited_operation() -> None:
    supervisor = Supervisor(err=io.StringIO())
    assert await supervisor.unless_stopped(asyncio.sleep(0, result=5)) == 5
    supervisor.request_stop()
    with pytest.raises(StopRequested):
        await supervisor.unless_stopped(asyncio.sleep(600))


_PARENT = """
import asyncio
from services.local.child import Child
from services.local.supervisor import Supervisor

async def main():
    supervisor = Supervisor()
    with supervisor.handling_signals():
        async with supervisor:
            for name in ("one", "two"):
                await supervisor.start(Child(name=name, argv=("sleep", "600")))
            print(supervisor.pid("one"), supervisor.pid("two"), flush=True)
            await supervisor.stop_requested.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops the children of a killed parent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_no_child_outlives_the_parent(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(number)
        assert parent.wait(_WITHIN_S) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    await eventually(lambda: all(gone(pid) for pid in pids))
