"""Run the API under a memory limit while clients without a key try to use up its memory.

Each kind of attack runs alone, then all run together, each time against a new api process. Meanwhile a client with a known key
requests tokens at a steady rate. The run fails if the kernel kills the process, if the process holds more than the limit,
including socket buffers, or if the tokens take longer than ``TOKEN_P99_MS`` at the 99th percentile.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.table import Table

from faults.attackers import KINDS
from faults.memory_limit import MemoryLimit, memory_limit
from faults.parts import ROOT, Part
from faults.stack import FaultStack, running
from services.cli.projects import create_project
from shared.infra.settings import inherited_environment
from tests.ports import free_port

TOKEN_P99_MS = 50.0
ALL = "all at once"
# The combined attack leaves these out, because another kind sends the same requests.
_CONTAINED = {"held_webhooks"}
_TOKENS_A_SECOND = 50
_SETTLED_S = 20.0
_MIB = 2**20


class Outcome(NamedTuple):
    """Memory in bytes, including socket buffers, and latencies in ms.

    ``after`` is the memory some time after the last attacker left.
    """

    attack: str
    before: int
    peak: int
    sockets: int
    after: int
    killed: int
    p50_ms: float
    p99_ms: float
    asked: int
    wrong: int
    errors: int

    def faults(self, limit_bytes: int) -> list[str]:
        found = []
        if self.killed:
            found.append(f"killed {self.killed} times")
        if self.peak > limit_bytes:
            found.append(f"held {self.peak / _MIB:.0f} MiB")
        if self.p99_ms > TOKEN_P99_MS or self.wrong:
            found.append(f"tokens: p99 {self.p99_ms:.0f} ms, {self.wrong} of {self.asked} wrong")
        if self.errors:
            found.append(f"{self.errors} internal errors counted")
        return found


async def run(limit_mib: int, seconds: float, only: str | None, caddy: str | None) -> int:
    """Run the attacks and print a line for each. Return 1 if anything was wrong.

    ``caddy`` is a binary. With it the attackers connect through the proxy.
    """
    console, wrong = Console(width=140), 0
    table = Table("attack", "before", "peak", "sockets", "after", "p50", "p99", "tokens", "load", "found")
    with _apart() as api_cores, running() as stack:
        stack.api.stop()
        for attack in [*KINDS, ALL]:
            if only is not None and only not in attack:
                continue
            outcome = await _attacked(stack, attack, limit_mib * _MIB, seconds, caddy, api_cores)
            found = outcome.faults(limit_mib * _MIB)
            wrong += bool(found)
            row = (
                attack,
                *(
                    f"{value / _MIB:.0f} MiB"
                    for value in (outcome.before, outcome.peak, outcome.sockets, outcome.after)
                ),
                f"{outcome.p50_ms:.1f} ms",
                f"{outcome.p99_ms:.1f} ms",
                str(outcome.asked),
                f"{os.getloadavg()[0]:.1f}",
                "; ".join(found) or "nothing",
            )
            table.add_row(*row)
            console.print("  ".join(row), markup=False)
    console.print(table)
    return 1 if wrong else 0


@contextlib.contextmanager
def _apart() -> Iterator[set[int]]:
    """Reserve the first core for the api and move this process, with all that it starts, to the others.

    The api must not be slow because attackers or other programs take its core, so all but the attackers get a higher priority
    too. Yields the cores of the api; with one core nothing is moved.
    """
    os.nice(-10)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:])
    try:
        yield set(cores[:1])
    finally:
        os.sched_setaffinity(0, cores)
        os.nice(10)


async def _attacked(
    stack: FaultStack, attack: str, limit_bytes: int, seconds: float, caddy: str | None, api_cores: set[int]
) -> Outcome:
    project = await create_project(stack.database, attack)
    key = next(key.key for key in project.keys if key.mode == "live" and key.type == "secret")
    with memory_limit(limit_bytes) as limit, contextlib.ExitStack() as context:
        stack.api = _limited_api(stack, limit, api_cores)
        await asyncio.to_thread(stack.api.start)
        context.callback(stack.api.kill)
        url = context.enter_context(_proxy(caddy, stack)) if caddy else stack.url
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
            tokens = _Tokens(client, key)
            await tokens.ask()
            errors_before = await _internal_errors(stack.url)
            before = limit.use()
            attackers = _start(tuple(KINDS.keys() - _CONTAINED) if attack == ALL else (attack,), url, seconds)
            try:
                peak, sockets = await _watch(limit, tokens, seconds)
            finally:
                for each in attackers:
                    each.kill()
                    each.wait()
        deadline = time.monotonic() + _SETTLED_S
        while time.monotonic() < deadline and limit.use().now > before.now * 1.2:  # noqa: ASYNC110  # of the kernel
            await asyncio.sleep(0.2)
        after = limit.use()
        errors = await _internal_errors(stack.url) - errors_before
        latencies = sorted(tokens.latencies_ms)
        return Outcome(
            attack,
            before.now,
            peak,
            sockets,
            after.now,
            after.killed,
            latencies[len(latencies) // 2],
            latencies[int(len(latencies) * 0.99)],
            len(latencies),
            tokens.wrong,
            int(errors),
        )


def _limited_api(stack: FaultStack, limit: MemoryLimit, cores: set[int]) -> Part:
    """Run an api process inside the group, on these cores.

    It is started again if the kernel kills it, as by an orchestrator.
    """
    log = stack.home / "api.log"

    def launch() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"echo $$ > {limit.path}/cgroup.procs && exec {sys.executable} -m services.api.main"],
                cwd=ROOT,
                env=inherited_environment(stack.environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        os.sched_setaffinity(process.pid, cores)
        return process

    def ready(_: Part) -> bool:
        try:
            return httpx.get(f"{stack.url}/readyz", trust_env=False, timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    return Part("api", launch, ready)


@contextlib.contextmanager
def _proxy(caddy: str, stack: FaultStack) -> Iterator[str]:
    """Run the shipped proxy in front of the api, and yield its URL."""
    port = free_port()
    env = {
        "RELAY_PROXY_PORT": str(port),
        "RELAY_UPSTREAM": "127.0.0.1",
        "RELAY_UPSTREAM_PORT": stack.url.rpartition(":")[2],
        "HOME": str(stack.home),
    }
    process = subprocess.Popen(
        [caddy, "run", "--adapter", "caddyfile", "--config", str(ROOT / "deploy" / "Caddyfile")],
        env=inherited_environment(env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    proxy = Part("caddy", lambda: process, lambda _: True)
    proxy.process = process
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/healthz", trust_env=False, timeout=2).status_code == 200:
                    break
            if time.monotonic() > deadline:
                raise RuntimeError("the proxy does not answer")
            time.sleep(0.1)
        yield url
    finally:
        proxy.stop()


def _start(kinds: Sequence[str], url: str, seconds: float) -> list["subprocess.Popen[bytes]"]:
    parts = urlsplit(url)
    return [
        subprocess.Popen(
            [sys.executable, "-m", "faults.attackers", kind, str(parts.hostname), str(parts.port), str(seconds)],
            cwd=ROOT,
            env=inherited_environment({"PYTHONPATH": str(ROOT)}),
            stdin=subprocess.DEVNULL,
            preexec_fn=_give_way,  # noqa: PLW1509  # no other thread runs here
        )
        for kind in kinds
    ]


def _give_way() -> None:
    """Run an attacker after the client with the key: they share a core, and only the api is measured."""
    os.nice(20)


async def _watch(limit: MemoryLimit, tokens: "_Tokens", seconds: float) -> tuple[int, int]:
    """Return the peak of memory while tokens are requested, and the peak of socket buffers."""
    peak = sockets = 0
    started = time.monotonic()
    asking: set[asyncio.Task[None]] = set()
    for number in range(int(seconds * _TOKENS_A_SECOND)):
        await asyncio.sleep(max(0.0, started + number / _TOKENS_A_SECOND - time.monotonic()))
        task = asyncio.create_task(tokens.ask())
        asking.add(task)
        task.add_done_callback(asking.discard)
        use = limit.use()
        peak, sockets = max(peak, use.now), max(sockets, use.sockets)
    if asking:
        await asyncio.wait(asking)
    return peak, sockets


class _Tokens:
    """Request tokens with a known key, and record the time of each."""

    def __init__(self, client: httpx.AsyncClient, key: str) -> None:
        self._client, self._headers = client, {"Authorization": f"Bearer {key}"}
        self.latencies_ms: list[float] = []
        self.wrong = 0

    async def ask(self) -> None:
        started = time.perf_counter()
        try:
            answer = await self._client.post(
                "/v1/tokens", json={"room": "lobby", "identity": "ada"}, headers=self._headers
            )
            self.wrong += answer.status_code != 200
        except httpx.TransportError:
            self.wrong += 1
        self.latencies_ms.append((time.perf_counter() - started) * 1000)


async def _internal_errors(url: str) -> float:
    """Return the number of errors that the alert on internal errors counts."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        try:
            text = (await client.get(f"{url}/metrics")).text
        except httpx.TransportError:
            return 0.0
    for line in text.splitlines():
        if line.startswith('relay_problems_total{code="internal_error"}'):
            return float(line.split()[-1])
    return 0.0


def log_tail(path: Path, lines: int = 20) -> str:
    """Return the end of a log, for the report of a failure."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
