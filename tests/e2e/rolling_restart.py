"""A rolling restart of two API processes and two workers under load, with figures. Run by a test; and by hand, against
servers named in the environment or embedded ones:

    python -m tests.e2e.rolling_restart --rounds 10 --tokens 3000 --webhooks 3000
"""

import argparse
import asyncio
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from services.cli.embedded import embedded_servers
from services.cli.projects import create_project
from services.cli.simulate.command import Traffic
from shared import event_stream
from shared.livekit.webhook import WebhookSigner
from shared.migrate import migrate
from shared.postgres import create_pool
from shared.settings import Settings, inherited_environment, parse_database_url
from tests.e2e.balanced_load import Balancer, Outcome, Wanted, drive
from tests.e2e.livekit_server import free_port
from tests.integration.test_volume import Owners, traffic_for

STOP_WITHIN_S = 40.0


class Figures(msgspec.Struct):
    """What a run found. ``lost``: events acknowledged and not stored. An event cannot be stored twice (its id is the key);
    that none was counted twice is what ``relay usage verify`` proves: ``verified``."""

    rounds: int
    seconds: float
    outcomes: dict[str, Outcome]
    lost: int
    verified: bool
    slowest_stop_s: float
    exit_codes: set[int]


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """A process's environment for these settings."""
    return inherited_environment(
        {
            "DATABASE_URL": settings.database.dsn,
            "REDIS_URL": settings.redis_url,
            "LIVEKIT_URL": settings.livekit_url,
            "LIVEKIT_API_KEY": settings.livekit_api_key,
            "LIVEKIT_API_SECRET": settings.livekit_api_secret,
            "AUTH_SECRET": settings.auth_secret,
            "RELAY_API_URL": settings.relay_api_url,
            "RECONCILE_INTERVAL_SECONDS": "0",
            "RELAY_HOST": "127.0.0.1",
            **more,
        }
    )


class Fleet:
    """Two API processes on ports that stay, and two workers."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings, self._log = settings, log
        self.ports = [free_port(), free_port()]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.slowest_stop_s = 0.0
        self.exit_codes: set[int] = set()

    @property
    def names(self) -> list[str]:
        return ["api-0", "api-1", "worker-0", "worker-1"]

    def start(self, name: str) -> None:
        kind, number = name.split("-")
        own = {"PORT": str(self.ports[int(number)])} if kind == "api" else {}
        with self._log.open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", f"services.{kind}.main"],
                env=environment_of(self._settings, DRAIN_SECONDS="1", **own),
                stdout=log,
                stderr=log,
            )

    async def stop(self, name: str) -> None:
        """SIGTERM, and its exit code; a process that does not stop in time is a failure."""
        process, started = self._processes.pop(name), time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.exit_codes.add(await asyncio.to_thread(process.wait, STOP_WITHIN_S))
        self.slowest_stop_s = max(self.slowest_stop_s, time.monotonic() - started)

    def kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@asynccontextmanager
async def fleet(settings: Settings, log: Path) -> AsyncIterator[tuple[Fleet, Balancer]]:
    """All four running and ready."""
    running = Fleet(settings, log)
    balancer = Balancer(running.ports)
    watching = asyncio.create_task(balancer.run())
    try:
        for name in running.names:
            running.start(name)
        await balancer.wait(2)
        yield running, balancer
    finally:
        watching.cancel()
        running.kill_all()


def request(path: str, body: bytes, authorization: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: relay\r\nauthorization: {authorization}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def webhooks(settings: Settings, traffic: Traffic) -> Iterator[Wanted]:
    signer = WebhookSigner(settings.livekit_api_key, settings.livekit_api_secret)
    for event in traffic.events:
        signature = signer.sign(event.body, now_s=int(time.time()))
        yield Wanted("webhooks", request("/api/webhooks/livekit", event.body, signature), repeated=True)


def mints(key: str) -> Iterator[Wanted]:
    data = request("/v1/tokens", b'{"room":"lobby","identity":"ann"}', f"Bearer {key}")
    return itertools.repeat(Wanted("tokens", data, repeated=False))


async def rolling_restart(
    settings: Settings, log: Path, *, rounds: int, tokens: float, webhook_rate: float, events: int
) -> Figures:
    """Restarts everything one after the other, ``rounds`` times, while both kinds of request go on; ``events``: the most
    webhooks there are to send."""
    projects = [await create_project(settings.database, name) for name in ("one", "two")]
    owners: Owners = [(project.project_id, project.name) for project in projects]
    key = next(k.key for k in projects[0].keys if k.mode == "live" and k.type == "secret")
    traffic = traffic_for(
        owners, time.time_ns() // 1_000_000, "--events", str(events), "--rooms", "40", "--people", "8"
    )
    done = False
    async with fleet(settings, log) as (running, balancer):
        started = time.monotonic()
        loads = [
            asyncio.create_task(drive(balancer, webhooks(settings, traffic), webhook_rate, 32, lambda: done)),
            asyncio.create_task(drive(balancer, mints(key), tokens, 32, lambda: done)),
        ]
        for _ in range(rounds):
            for name in running.names:
                await asyncio.sleep(0.3)  # some load for the state before
                await running.stop(name)
                running.start(name)
                if name.startswith("api"):
                    await balancer.wait(2)
        restarted = time.monotonic() - started
        done = True
        outcomes = {**await loads[0], **await loads[1]}
        await _folded(settings)
        async with create_pool(settings.database, "tests") as pool, pool.acquire() as conn:
            stored = int(await conn.fetchval("SELECT count(*) FROM event"))
        verified = await asyncio.to_thread(_verified, settings)
        for name in running.names:
            await running.stop(name)
        lost = outcomes["webhooks"].answered - stored
        return Figures(rounds, restarted, outcomes, lost, verified, running.slowest_stop_s, running.exit_codes)


def _verified(settings: Settings) -> bool:
    command = [sys.executable, "-m", "services.cli.main", "usage", "verify", "--json"]
    return subprocess.run(command, env=environment_of(settings), stdout=subprocess.DEVNULL, check=False).returncode == 0


async def _folded(settings: Settings) -> None:
    redis = event_stream.connect_redis(settings.redis_url)
    deadline = time.monotonic() + 120
    try:
        while await event_stream.oldest_unfolded_ms(redis) is not None:
            assert time.monotonic() < deadline, "events still wait for the fold"
            await asyncio.sleep(0.1)
    finally:
        await redis.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=float, default=1000.0, help="a second")
    parser.add_argument("--webhooks", type=float, default=1000.0, help="a second")
    parser.add_argument("--seconds", type=float, default=300.0, help="for how long there are webhooks at that rate")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-test-") as directory:
        path = Path(directory)
        with embedded_servers(path / "servers", fsync=True) as servers:
            database = parse_database_url(servers.database_url)
            migrate(database)
            settings = Settings(
                database=database,
                redis_url=servers.redis_url,
                livekit_url="ws://127.0.0.1:7880",
                livekit_api_url="http://127.0.0.1:7880",
                livekit_api_key="devkey",
                livekit_api_secret="secret",
                auth_secret="x" * 32,
                relay_api_url="http://127.0.0.1",
            )
            run = rolling_restart(
                settings,
                path / "log",
                rounds=given.rounds,
                tokens=given.tokens,
                webhook_rate=given.webhooks,
                events=int(given.seconds * given.webhooks),
            )
            print(msgspec.json.format(msgspec.json.encode(asyncio.run(run), order="deterministic"), indent=2).decode())


if __name__ == "__main__":
    main()
