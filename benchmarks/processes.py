"""Start Relay and its peers as separate processes on the loopback interface.

Their servers sync to disk.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from services.local.child import Child
from services.local.embedded import EmbeddedServers, embedded_servers
from shared.infra.migrations.migrate import migrate
from shared.infra.settings import environment, inherited_environment, parse_database_url

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
LIVEKIT = {
    "LIVEKIT_URL": "ws://127.0.0.1:7880",
    "LIVEKIT_API_KEY": "devkey",
    "LIVEKIT_API_SECRET": "a-secret-of-the-benchmarks-alone-and-long",
}
_READY_WITHIN_S = 60.0
# Requests are counted as usual, and no limit is reached.
NEVER_REACHED = {
    f"RATE_LIMIT_{what}_PER_{whose}": "100000000" for what in ("TOKENS", "API") for whose in ("KEY", "PROJECT")
}


class Site(NamedTuple):
    """A running HTTP server."""

    name: str
    url: str
    pid: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory with a path short enough for a socket.

    It is on a disk, because syncing costs nothing in memory.
    """
    path = Path(tempfile.mkdtemp(prefix="relay-bench-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def servers(directory: Path) -> Iterator[tuple[EmbeddedServers, dict[str, str]]]:
    """Run Postgres and Redis, migrated, and yield them with Relay's environment.

    Postgres has its defaults. Redis syncs its append-only file.
    """
    with embedded_servers(directory / "servers") as running:
        migrate(parse_database_url(running.database_url))
        yield (
            running,
            {
                **LIVEKIT,
                "DATABASE_URL": running.database_url,
                "REDIS_URL": running.redis_url,
                "AUTH_SECRET": "b" * 32,
                "RELAY_API_URL": "http://127.0.0.1",
                "RECONCILE_INTERVAL_SECONDS": "0",
                **NEVER_REACHED,
            },
        )


@contextmanager
def process(
    command: list[str], env: Mapping[str, str], directory: Path, log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process until the context or this process ends. Its output goes to ``log``."""
    own = Child(name=log.stem, argv=tuple(command), cwd=directory, env=inherited_environment(env))
    with log.open("ab") as output:
        child = subprocess.Popen(own.argv, stdout=output, stderr=subprocess.STDOUT, **own.options())
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(url: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a server answers. Raises with the end of its log if none does."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False, timeout=2)
            return
        except httpx.TransportError:
            if child.poll() is not None:
                break
            time.sleep(0.02)
    raise RuntimeError(f"nothing answers at {url}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


@contextmanager
def api(env: Mapping[str, str], directory: Path, name: str = "relay") -> Iterator[Site]:
    port, log = free_port(), directory / f"{name}.log"
    own = {**env, "PORT": str(port), "RELAY_HOST": "127.0.0.1"}
    with process([sys.executable, "-m", "services.api.main"], own, ROOT, log) as child:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/healthz", child, log)
        yield Site(name, url, child.pid)


@contextmanager
def worker(env: Mapping[str, str], directory: Path, name: str = "worker") -> Iterator[int]:
    """Yield its process id once it reports that it is ready."""
    log = directory / f"{name}.log"
    with process([sys.executable, "-m", "services.worker.main"], {**env, "WORKER_PORT": "0"}, ROOT, log) as child:
        deadline = time.monotonic() + _READY_WITHIN_S
        while b"worker is ready" not in log.read_bytes():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not start: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.02)
        yield child.pid


@contextmanager
def uvicorn_peer(name: str, module: str, env: Mapping[str, str], directory: Path) -> Iterator[Site]:
    port, log = free_port(), directory / f"{name}.log"
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.peers.python.{module}:app", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    with process(command, env, ROOT, log) as child:
        wait_for(f"http://127.0.0.1:{port}/", child, log)
        yield Site(name, f"http://127.0.0.1:{port}", child.pid)


@contextmanager
def node_peer(name: str, env: Mapping[str, str], directory: Path) -> Iterator[Site]:
    """Run Express or Next.js in production mode.

    It is installed outside the repository, in the versions that its package.json pins.
    """
    home, port, log = installed(name), free_port(), directory / f"{name}.log"
    command = ["node", "server.mjs"] if name == "express" else ["node_modules/.bin/next", "start", "-p", str(port)]
    own = {**env, "PORT": str(port), "NODE_ENV": "production", "NEXT_TELEMETRY_DISABLED": "1"}
    with process(command, own, home, log) as child:
        wait_for(f"http://127.0.0.1:{port}/", child, log)
        yield Site(name, f"http://127.0.0.1:{port}", child.pid)


def installed(name: str) -> Path:
    """Return where a Node peer is installed and built. It is built again if its sources change."""
    cache = Path(environment().get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "relay-bench" / name
    sources = sorted(path for path in (PEERS / name).rglob("*") if path.is_file())
    stamp = "".join(path.read_text(encoding="utf-8") for path in sources)
    done = cache / ".installed"
    if done.exists() and done.read_text(encoding="utf-8") == stamp:
        return cache
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(PEERS / name, cache)
    _npm(cache, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
    if name == "next":
        _npm(cache, "run", "build", "--silent")
    done.write_text(stamp, encoding="utf-8")
    return cache


def _npm(directory: Path, *arguments: str) -> None:
    program = shutil.which("npm") or "npm"
    env = inherited_environment({"NEXT_TELEMETRY_DISABLED": "1"})
    subprocess.run([program, *arguments], cwd=directory, env=env, check=True, stdout=subprocess.DEVNULL)


def missing_programs(wanted: tuple[str, ...]) -> list[str]:
    return [program for program in wanted if shutil.which(program) is None]
