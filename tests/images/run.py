"""Builds both images step by step in a clean root and runs them against Postgres and Redis: `make images`. Needs root and
debootstrap, no Docker. The clean root is Debian bookworm with its Python 3.11 in place of the base image.

    python -m tests.images.run [--mirror URL]
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

from services.local.embedded import embedded_servers
from shared.ending import end_tasks
from shared.settings import environment
from tests.images.container import ran, running, stop, wait_until_healthy
from tests.images.dockerfile import Image, build
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(environment().get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "relay-ci"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# What an image must not hold: the tools it was made with, and what another service needs.
FORBIDDEN = {
    "Dockerfile.api": ("app/services/worker", "app/tests", "app/.git", "opt/venv/bin/pip"),
    "Dockerfile.worker": (
        "app/services/api", "app/services/cli", "app/services/local", "app/tests", "opt/venv/bin/pip",
        *(f"opt/venv/lib/python3.11/site-packages/{name}" for name in ("litestar", "uvicorn", "jinja2", "httpx")),
    ),
}  # fmt: skip


def clean_root(scratch: Path, mirror: str | None) -> Path:
    """Bookworm with Python, made once and kept in the cache."""
    archive, root = CACHE / "bookworm-python.tar", scratch / "base"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = scratch / "debootstrap"
        where = [mirror] if mirror else apt_mirror()
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(made), *where],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (made / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        shutil.rmtree(made / "var/cache/apt", ignore_errors=True)
        shutil.rmtree(made / "var/lib/apt/lists", ignore_errors=True)
        subprocess.run(["tar", "-C", str(made), "-cf", str(archive.with_suffix(".new")), "."], check=True)
        archive.with_suffix(".new").rename(archive)
        shutil.rmtree(made)
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", str(archive)], check=True)
    return root


def apt_mirror() -> list[str]:
    """The mirror that this machine's own apt takes Debian from, if it does; else debootstrap knows one."""
    asked = ["Identifier: Packages", f"Codename: {SUITE}", "Label: Debian"]
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", *asked], capture_output=True, text=True, check=False
    )
    return [uri for uri in found.stdout.split() if uri.startswith(("http://", "https://", "file:"))][:1]


@contextmanager
def over_tcp(socket: str) -> Iterator[int]:
    """A Unix socket on a TCP port: a container sees no sockets of its host."""
    loop, port = asyncio.new_event_loop(), free_port()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(end_tasks(asyncio.all_tasks(loop)))
        loop.close()


def check_contents(dockerfile: str, image: Image) -> None:
    for path in FORBIDDEN[dockerfile]:
        assert not (image.root / path).exists(), f"{dockerfile} holds {path}"
    sources, compiled = list((image.root / "app").rglob("*.py")), list((image.root / "app").rglob("*.pyc"))
    assert sources
    assert len(compiled) == len(sources), "sources that every start would compile again"
    own = sum(f.stat().st_size for part in ("app", "opt") for f in (image.root / part).rglob("*") if f.is_file())
    print(f"    {dockerfile}: {own / 2**20:.0f} MiB above its base")


def use(api: Image, worker: Image, settings: dict[str, str], log_path: Path) -> None:
    """Migrates, starts both, and follows one call from its token to its minutes."""
    migrate = ["python", "-m", "services.cli.main", "migrate"]
    assert "applied" in ran(api, migrate, settings)
    with (
        log_path.open("w") as log,
        running(api, settings, log) as api_process,
        running(worker, settings, log) as worker_process,
    ):
        print(f"    api healthy after {wait_until_healthy(api, settings):.1f} s")
        print(f"    worker healthy after {wait_until_healthy(worker, settings):.1f} s")
        created = ran(api, ["python", "-m", "services.cli.main", "projects", "create", "images", "--json"], settings)
        key = next(k["key"] for k in json.loads(created)["keys"] if k["mode"] == "live" and k["type"] == "secret")
        follow_a_call(settings, {"Authorization": f"Bearer {key}"}, api)
        print(f"    api stopped in {stop(api, api_process):.1f} s, worker in {stop(worker, worker_process):.1f} s")


def follow_a_call(settings: dict[str, str], headers: dict[str, str], api: Image) -> None:
    with httpx.Client(base_url=settings["RELAY_API_URL"], trust_env=False, timeout=20, headers=headers) as client:
        for path in ("/readyz", "/metrics"):
            assert client.get(path).status_code == 200, client.get(path).text
        worker_url = f"http://127.0.0.1:{settings['WORKER_PORT']}"
        deadline = time.monotonic() + 30
        while httpx.get(f"{worker_url}/readyz", trust_env=False).status_code != 200:
            assert time.monotonic() < deadline, "the worker is not ready"
            time.sleep(0.2)
        assert client.post("/v1/tokens", json={"room": "lobby", "identity": "ann"}).status_code == 200
        simulate = ["python", "-m", "services.cli.main", "simulate", "--events", "40", "--rooms", "2"]
        ran(api, simulate, settings)
        deadline = time.monotonic() + 30
        while not (usage := minutes(client)):
            assert time.monotonic() < deadline, "no minutes"
            time.sleep(0.2)
        print(f"    {usage:.1f} minutes metered")


def minutes(client: httpx.Client) -> float:
    answer: Any = client.get("/v1/usage").json()
    return float(answer["totals"]["participantMinutes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror", help="of Debian; default: apt's, else debootstrap's")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-test-") as directory:
        scratch, started = Path(directory), time.monotonic()
        base = clean_root(scratch, given.mirror)
        print(f"clean root: {time.monotonic() - started:.0f} s", flush=True)
        images = {}
        for name in ("Dockerfile.api", "Dockerfile.worker"):
            print(name, flush=True)
            begun = time.monotonic()
            images[name] = build(ROOT / name, ROOT, base, scratch / name)
            check_contents(name, images[name])
            print(f"    built in {time.monotonic() - begun:.0f} s", flush=True)
        log = scratch / "log"
        with embedded_servers(scratch / "servers", fsync=True) as servers:
            postgres = parse_qs(urlsplit(servers.database_url).query)["host"][0]
            redis = unquote(urlsplit(servers.redis_url).path)
            with over_tcp(f"{postgres}/.s.PGSQL.5432") as pg_port, over_tcp(redis) as redis_port:
                port = free_port()
                settings = {
                    "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{pg_port}/relay",
                    "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
                    "LIVEKIT_URL": "ws://127.0.0.1:7880",
                    "LIVEKIT_API_KEY": "devkey",
                    "LIVEKIT_API_SECRET": "secret",
                    "AUTH_SECRET": "sixteen characters or more",
                    "RELAY_API_URL": f"http://127.0.0.1:{port}",
                    "PORT": str(port),
                    "WORKER_PORT": str(free_port()),
                    "RECONCILE_INTERVAL_SECONDS": "0",
                }
                try:
                    use(images["Dockerfile.api"], images["Dockerfile.worker"], settings, log)
                except BaseException:
                    sys.stderr.write(log.read_text() if log.exists() else "")
                    raise
        print(f"images: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
