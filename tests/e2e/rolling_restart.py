"""Restarts two API processes and two workers one after the other under load, and measures it.

A test runs it. By hand it prints figures, with the servers that the environment names or embedded ones:

    python -m tests.e2e.rolling_restart --rounds 10 --tokens 3000 --webhooks 3000
"""

import argparse
import asyncio
import gc
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import msgspec
import uvloop

from services.cli.projects import create_project
from services.local.embedded import embedded_servers
from shared.infra.migrations.migrate import migrate
from shared.infra.postgres.pool import create_pool
from shared.infra.settings import Settings, parse_database_url
from tests.e2e.balanced_load import Balancer, LoadOutcome, OnePort, drive
from tests.e2e.fleet import environment_of, fleet, folded, mints, webhooks
from tests.e2e.proxy import shipped_proxy
from tests.integration.test_volume import Owners, traffic_for

Way = Literal["balancer", "proxy"]


def connections_for(rate: float) -> int:
    """Return how many requests are pending at this rate if a response takes 100 ms, but at least 32.

    LiveKit sends one webhook at a time for each of many rooms.
    """
    return max(32, int(rate / 10))


class Figures(msgspec.Struct):
    """The results of a run.

    ``outcomes`` are by way ("balancer" or "proxy") and kind of request.

    ``lost`` counts events that were acknowledged and not stored. An event cannot be stored twice, because its id is the key.
    ``verified`` is the result of ``relay usage verify``, which proves that none was counted twice. ``client_cpu_us`` is the
    cost of a request for the senders, which all run in this process and use the same processors.
    """

    rounds: int
    seconds: float
    outcomes: dict[Way, dict[str, LoadOutcome]]
    lost: int
    verified: bool
    slowest_stop_s: float
    exit_codes: set[int]
    client_cpu_us: float


async def rolling_restart(
    settings: Settings,
    log: Path,
    *,
    rounds: int,
    tokens: float,
    webhook_rate: float,
    events: int,
    drain_s: int = 1,
    ways: tuple[Way, ...] = ("balancer",),
) -> Figures:
    """Restart everything one after the other, ``rounds`` times, while both kinds of request continue.

    Each of the ``ways`` has the rates ``tokens`` and ``webhook_rate``, and ``events`` is the maximum number of webhooks. The
    balancer checks readiness. The proxy of compose does not.
    """
    projects = [await create_project(settings.database, name) for name in ("one", "two")]
    owners: Owners = [(project.project_id, project.name) for project in projects]
    key = next(k.key for k in projects[0].keys if k.mode == "live" and k.type == "secret")
    traffic = traffic_for(
        owners, time.time_ns() // 1_000_000, "--events", str(events), "--rooms", "40", "--people", "8"
    )
    gc.freeze()  # else the collector would scan hundreds of thousands of live events again and again
    stopped = asyncio.Event()
    async with AsyncExitStack() as stack:
        running, balancer = await stack.enter_async_context(fleet(settings, log, drain_s))
        targets: dict[str, Balancer] = {"balancer": balancer}
        if "proxy" in ways:
            targets["proxy"] = OnePort(stack.enter_context(shipped_proxy(running.ports, log.parent)))
        started, cpu = time.monotonic(), time.process_time()
        sent = webhooks(settings, traffic)  # each event goes one of the ways
        loads = {
            (way, kind): asyncio.create_task(
                drive(targets[way], requests, rate, connections_for(rate), stopped.is_set), name=f"{kind} by {way}"
            )
            for way in ways
            for kind, requests, rate in (("webhooks", sent, webhook_rate), ("tokens", mints(key), tokens))
        }
        for _ in range(rounds):
            for name in running.names:
                await asyncio.sleep(0.3)  # some load before each restart
                await running.stop(name)
                running.start(name)
                if name.startswith("api"):
                    await balancer.wait(2)
        restarted = time.monotonic() - started
        stopped.set()
        await asyncio.gather(*loads.values())
        outcomes = {way: {kind: loads[way, kind].result() for kind in ("webhooks", "tokens")} for way in ways}
        cpu = time.process_time() - cpu
        await folded(settings)
        async with create_pool(settings.database, "tests") as pool, pool.acquire() as conn:
            stored = int(await conn.fetchval("SELECT count(*) FROM event"))
        verified = await asyncio.to_thread(_verified, settings)
        for name in running.names:
            await running.stop(name)
        lost = sum(of_way["webhooks"].answered for of_way in outcomes.values()) - stored
        answered = sum(outcome.answered for of_way in outcomes.values() for outcome in of_way.values())
        return Figures(
            rounds,
            restarted,
            outcomes,
            lost,
            verified,
            running.slowest_stop_s,
            running.exit_codes,
            cpu * 1e6 / answered,
        )


def _verified(settings: Settings) -> bool:
    command = [sys.executable, "-m", "services.cli.main", "usage", "verify", "--json"]
    return subprocess.run(command, env=environment_of(settings), stdout=subprocess.DEVNULL, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=float, default=1000.0, help="a second")
    parser.add_argument("--webhooks", type=float, default=1000.0, help="a second")
    parser.add_argument("--seconds", type=float, default=300.0, help="for how long there are webhooks at that rate")
    parser.add_argument("--drain", type=int, default=5, help="DRAIN_SECONDS (default: the image's, %(default)s)")
    parser.add_argument("--proxy", action="store_true", help="through the proxy of compose (needs the extra `ci`)")
    given = parser.parse_args()
    # SIGTERM ends like Ctrl-C: it stops the servers and removes the directory. After SIGKILL the kernel ends the children.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
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
                drain_s=given.drain,
                ways=("proxy",) if given.proxy else ("balancer",),
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures = runner.run(run)
            print(msgspec.json.format(msgspec.json.encode(figures, order="deterministic"), indent=2).decode())


if __name__ == "__main__":
    main()
