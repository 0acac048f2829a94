"""`kill -9` of the worker, again and again under load, loses and duplicates no event."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.cli.projects import create_project
from services.cli.simulate.totals import expected
from services.cli.simulate.traffic import Event
from shared.infra.postgres.pool import Pool, create_pool
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker, wake
from shared.infra.settings import Settings, environment
from shared.models.received import Received
from tests.e2e.fleet import environment_of
from tests.integration.test_volume import metered, traffic_for

# The kills and the events: the load must outlast the kills.
KILLS, EVENTS = (20, 40_000) if environment().get("RELAY_LONG_TESTS") == "1" else (6, 6_000)
# The time for a worker to start and fold on a busy machine.
_WITHIN_S = 120.0


def start_worker(settings: Settings, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.worker.main"],
            env=environment_of(settings),
            stdout=output,
            stderr=output,
        )


class Pace:
    """Limits how much of the load is sent, so that some of it is left for every kill."""

    def __init__(self, kills: int) -> None:
        self._kills, self._done = kills, 0
        self._on = asyncio.Event()

    async def allows(self, part: float) -> None:
        """Wait until this part of the load, from 0 to 1, may be sent."""
        while part > (self._done + 1) / (self._kills + 1):
            self._on.clear()
            await self._on.wait()

    def killed(self) -> None:
        self._done += 1
        self._on.set()


async def feed(settings: Settings, events: list[Event], pace: Pace, stop: asyncio.Event) -> None:
    """Append the events to the streams as the API does."""
    redis = event_stream.connect_streams(settings)
    broker = create_broker(settings.redis_url, [])
    try:
        for start in range(0, len(events), 100):
            await pace.allows(start / len(events))
            now_ms = time.time_ns() // 1_000_000
            group = events[start : start + 100]
            silent = await event_stream.append(
                redis, [(event_stream.partition_of(e.body), Received(now_ms, e.body)) for e in group]
            )
            await wake(broker, silent)
            if not stop.is_set():
                await asyncio.sleep(0.1)
    finally:
        broker.close()
        await redis.aclose()


async def waiting(settings: Settings) -> int | None:
    redis = event_stream.connect_streams(settings)
    try:
        return await event_stream.oldest_unfolded_ms(redis)
    finally:
        await redis.aclose()


async def counted(pool: Pool) -> int:
    async with pool.acquire() as conn:
        return int(await conn.fetchval("SELECT count(*) FROM event"))


async def test_killed_worker_loses_and_duplicates_no_event(settings: Settings, tmp_path: Path) -> None:
    await kill_under_load(settings, tmp_path, KILLS, EVENTS)


async def kill_under_load(settings: Settings, tmp_path: Path, kills: int, events: int) -> None:
    owners = [((await create_project(settings.database, name)).project_id, name) for name in ("one", "two")]
    options = ("--events", str(events), "--rooms", "20", "--people", "8", "--shuffle", "--duplicate", "0.1")
    traffic = traffic_for(owners, time.time_ns() // 1_000_000, *options)
    log, rng, pace, stop = tmp_path / "worker.log", random.Random(1), Pace(kills), asyncio.Event()
    worker = start_worker(settings, log)
    feeding = asyncio.create_task(feed(settings, traffic.events, pace, stop))
    try:
        async with create_pool(settings.database, "tests") as pool:
            before = 0
            for number in range(kills):
                deadline = time.monotonic() + _WITHIN_S
                # Kill the worker only after it has folded something, somewhere in the middle of the next batch.
                while await counted(pool) == before:
                    assert not feeding.done(), f"the load ended before kill {number + 1}"
                    assert time.monotonic() < deadline, log.read_text()
                    await asyncio.sleep(0.01)
                await asyncio.sleep(rng.random() * 0.1)
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                before = await counted(pool)
                worker = start_worker(settings, log)
                pace.killed()
            stop.set()
            await feeding
            deadline = time.monotonic() + _WITHIN_S
            while await waiting(settings) is not None:
                assert time.monotonic() < deadline, log.read_text()
                await asyncio.sleep(0.1)
            # An event is acknowledged in the stream after its commit, so the numbers are final.
            assert await counted(pool) == traffic.generated
            assert await metered(pool, owners) == expected(traffic.stays)
    finally:
        feeding.cancel()
        worker.terminate()
        assert worker.wait(timeout=40) == 0
