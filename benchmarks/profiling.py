"""Show where a path spends its time: `python -m benchmarks profile [PATH …]`. Needs py-spy in PATH.

`pip install py-spy` installs it. Each path runs twice. The first run measures the cost of an event or a request. In the second,
py-spy samples the stacks of threads that hold the GIL, without stopping the process. It counts time, not processor time: on a
busy machine a write to a socket looks expensive, because the reader takes the core.
"""

import asyncio
import contextlib
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks import processes, scaling, usage
from benchmarks.fold import fold_by
from benchmarks.layers import LAYERS
from benchmarks.load import line, run
from benchmarks.machine import cpu_us, show
from benchmarks.tokens import requests_file
from benchmarks.webhooks import bodies
from services.cli.projects import create_project
from shared.infra.settings import parse_database_url

_EVENTS, _SESSIONS = 100_000, 200_000


def profile(path: str, seconds: float) -> None:
    """Print layers and functions. Raises if a response is wrong or the profile is empty."""
    with processes.scratch() as directory:
        raw = directory / "stacks"
        cost_us = _fold(raw) if path == "fold" else _http(path, raw, directory, seconds)
        stacks = read(raw.read_text(encoding="utf-8"))
    if not stacks:
        raise RuntimeError("py-spy recorded nothing. It needs the right to trace other processes (CAP_SYS_PTRACE).")
    own: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[stack.rpartition(";")[2]] += count
    what, total = "an event" if path == "fold" else "a request", stacks.total()
    for title, counts in ((f"{path}: {cost_us:.1f} µs {what}", by_layer(path, stacks)), ("by function", own)):
        rows = [
            [name, f"{count / total:.1%}", f"{cost_us * count / total:.2f}"] for name, count in counts.most_common(20)
        ]
        show(title, ["", "of the time", f"µs {what}"], rows)


def read(raw: str) -> Counter[str]:
    """Parse py-spy's raw format into stacks and their counts, outermost frame first, without line numbers."""
    stacks: Counter[str] = Counter()
    for seen in raw.splitlines():
        stack, _, count = re.sub(r":\d+\)", ")", seen).rpartition(" ")
        stacks[stack] += int(count)
    return stacks


def by_layer(path: str, stacks: Counter[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        found[next(name for name, words in LAYERS[path].items() if any(word in stack for word in words))] += count
    return found


@contextlib.contextmanager
def _recorded(pid: int, raw: Path) -> Iterator[None]:
    command = ["py-spy", "record", "--gil", "--nonblocking", "--rate", "500", "--duration", "600", "--format", "raw"]
    with subprocess.Popen([*command, "--output", str(raw), "--pid", str(pid)], stdout=subprocess.DEVNULL) as spy:
        try:
            yield
        finally:
            spy.send_signal(signal.SIGINT)


def _fold(raw: Path) -> float:
    with processes.scratch() as directory:
        cost_us = fold_by(1, directory, _EVENTS, 0).worker
    with processes.scratch() as directory:
        fold_by(1, directory, _EVENTS, 1, lambda pid: _recorded(pid, raw))
    return cost_us


def _http(path: str, raw: Path, directory: Path, seconds: float) -> float:
    with contextlib.ExitStack() as stack:
        running, env = stack.enter_context(processes.servers(directory))
        if path == "usage":
            env["DATABASE_URL"] = running.database_url.replace("/relay?", "/large?")
            key = usage.prepared(running.database_url, env["DATABASE_URL"], "large", _SESSIONS, directory)
            lines = [line({"Authorization": f"Bearer {key}"}, b"")]
        else:
            project = asyncio.run(create_project(parse_database_url(running.database_url), "bench"))
            key = next(key.key for key in project.keys if key.mode == "live" and key.type == "secret")
            lines = scaling.token(key) if path == "tokens" else scaling.webhooks(bodies(project.project_id, 20_000))
        site, requests = stack.enter_context(processes.api(env, directory)), requests_file(directory, lines)
        url = site.url + (f"/v1/{usage.DAYS_30}" if path == "usage" else scaling.PATHS[path])
        connections = 1 if path == "usage" else 32
        run(url, requests, connections=connections, seconds=1)  # warms the caches
        before = cpu_us(site.pid)
        load = run(url, requests, connections=connections, seconds=seconds)
        cost_us = (cpu_us(site.pid) - before) / load.ok
        with _recorded(site.pid, raw):
            load = run(url, requests, connections=connections, seconds=seconds)
        if load.wrong:
            raise RuntimeError(f"{path}: {load.wrong} answers were not 2xx; nothing is reported")
        return cost_us
