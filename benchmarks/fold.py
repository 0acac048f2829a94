"""Measure how many events a second one worker process folds, beside a peer.

The peer handles one message in one transaction for each event.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import redis

from benchmarks import processes
from benchmarks.machine import Spread, cpu_us, resident_mib
from benchmarks.processes import ROOT
from benchmarks.webhooks import bodies
from services.cli.projects import create_project
from shared.infra.postgres.pool import connect
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker, wake
from shared.infra.settings import parse_database_url
from shared.models.received import Received

_WITHIN_S = 300.0


def measure(rounds: int, events: int = 100_000, peer_events: int = 3_000) -> dict[str, dict[str, Spread]]:
    """Measure rates by worker, and the worker's memory in MiB.

    Raises if the database does not hold exactly the events that were sent.
    """
    rates: dict[str, list[float]] = {"relay": [], "a message and a transaction an event": []}
    memory: list[float] = []
    for number in range(rounds):
        for name in rates if number % 2 == 0 else reversed(rates):
            with processes.scratch() as directory:
                if name == "relay":
                    folded = fold_by(1, directory, events, number)
                    rate = folded.per_second
                    memory.append(folded.mib)
                else:
                    rate = _peer(directory, peer_events, number)
            rates[name].append(rate)
    return {
        "relay": {"per_second": Spread(tuple(rates["relay"])), "mib": Spread(tuple(memory))},
        **{name: {"per_second": Spread(tuple(found))} for name, found in rates.items() if name != "relay"},
    }


class Folded(NamedTuple):
    """Rate, processor time, lock waits and memory of one fold.

    The rate is in events a second. Processor time is in microseconds an event: all workers together, Postgres, Redis. The
    lock wait is a share of the time of the workers' batches. Memory is that of the largest worker, in MiB.
    """

    per_second: float
    worker: float
    postgres: float
    redis: float
    waiting: float
    mib: float


def fold_by(
    workers: int,
    directory: Path,
    count: int,
    seed: int,
    watch: Callable[[int], AbstractContextManager[None]] = lambda pid: contextlib.nullcontext(),
) -> Folded:
    """Let ``workers`` fold ``count`` events that wait in the streams, and measure each with ``watch``.

    Raises if the database does not hold exactly these events.
    """
    with contextlib.ExitStack() as stack:
        running, env = stack.enter_context(processes.servers(directory))
        events = _events(running.database_url, count, seed)
        pids = [stack.enter_context(processes.worker(env, directory)) for _ in range(workers)]
        client = redis.Redis.from_url(running.redis_url)
        # Stopped while the streams are filled, so that only folding is timed and not the worker's start.
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        asyncio.run(_append(running.redis_url, events))
        measured: tuple[Callable[[], float], ...] = (
            lambda: sum(map(cpu_us, pids)),
            lambda: cpu_us(running.postgres_pid),
            lambda: cpu_us(running.redis_pid),
        )
        before = [measure_one() for measure_one in measured]
        started = time.perf_counter()
        with contextlib.ExitStack() as watches:
            for pid in pids:
                watches.enter_context(watch(pid))
                os.kill(pid, signal.SIGCONT)
            waiting = asyncio.run(_until_folded(client, running.database_url, started))
            elapsed = time.perf_counter() - started
        costs = [(measure_one() - was) / count for measure_one, was in zip(measured, before, strict=True)]
        _check(running.database_url, count)
        worker, postgres, in_redis = costs
        return Folded(count / elapsed, worker, postgres, in_redis, waiting, max(map(resident_mib, pids)))


async def _until_folded(client: "redis.Redis", database_url: str, started: float) -> float:
    """Wait until the streams are empty. Return the share of running transactions that waited for a lock.

    The transactions are sampled thirty times a second.
    """
    lengths = client.pipeline(transaction=False)
    conn = await connect(parse_database_url(database_url), "benchmark")
    busy = waiting = 0
    try:
        while True:
            for partition in range(event_stream.PARTITIONS):
                lengths.xlen(event_stream.stream_key(partition))
            if not any(lengths.execute()):
                break
            _give_up(started)
            row = await conn.fetchrow(_AT_WORK)
            assert row is not None
            busy, waiting = busy + row["busy"], waiting + row["waiting"]
            await asyncio.sleep(0.03)
    finally:
        await conn.close()
    return waiting / max(1, busy)


_AT_WORK = (
    "SELECT count(*) AS busy, count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting FROM pg_stat_activity"
    " WHERE application_name = 'relay worker' AND xact_start IS NOT NULL AND query NOT LIKE '%relay_read_%'"
)


def _peer(directory: Path, count: int, seed: int) -> float:
    with contextlib.ExitStack() as stack:
        running, env = stack.enter_context(processes.servers(directory))
        events = _events(running.database_url, count, seed)
        client = redis.Redis.from_url(running.redis_url)
        command = [sys.executable, "-m", "benchmarks.peers.python.fold_per_event"]
        log = directory / "peer.log"
        child = stack.enter_context(processes.process(command, env, ROOT, log))
        while b"ready" not in log.read_bytes():
            if child.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8"))
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGSTOP)
        _enqueue(running.redis_url, events)
        os.kill(child.pid, signal.SIGCONT)
        started = time.perf_counter()
        while client.hlen("peer:peer.msgs"):
            _give_up(started)
            time.sleep(0.02)
        elapsed = time.perf_counter() - started
        _check(running.database_url, count)
        return count / elapsed


def _give_up(started: float) -> None:
    if time.perf_counter() - started > _WITHIN_S:
        raise RuntimeError("the events were not folded in time; nothing is reported")


def _events(database_url: str, count: int, seed: int) -> list[bytes]:
    database = parse_database_url(database_url)
    names = ("one", "two", "three", "four")
    projects = [asyncio.run(create_project(database, name)).project_id for name in names]
    # Each has a different seed: the same seed creates the same event ids.
    share = count // len(projects)
    per_project = [bodies(project, share, 10 * seed + number) for number, project in enumerate(projects)]
    return [body for some in zip(*per_project, strict=True) for body in some]


async def _append(redis_url: str, events: Sequence[bytes]) -> None:
    client, broker = event_stream.connect_redis(redis_url), create_broker(redis_url, [])
    now_ms = time.time_ns() // 1_000_000
    for start in range(0, len(events), 2000):
        group = events[start : start + 2000]
        entries = [(event_stream.partition_of(body), Received(now_ms, body)) for body in group]
        # Like the API: wake the worker for a partition that was idle.
        await wake(broker, await event_stream.append(client, entries))
    await client.aclose()


def _enqueue(redis_url: str, events: Sequence[bytes]) -> None:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    from benchmarks.peers.python.fold_per_event import message

    broker = RedisBroker(
        client=redis.Redis.from_url(redis_url), middleware=list[dramatiq.Middleware](), namespace="peer"
    )
    broker.declare_queue("peer")
    now_ms = time.time_ns() // 1_000_000
    for body in events:
        broker.enqueue(message(body, now_ms))


def _check(database_url: str, count: int) -> None:
    async def stored() -> int:
        conn = await connect(parse_database_url(database_url))
        try:
            return int(await conn.fetchval("SELECT count(*) FROM event") or 0)
        finally:
            await conn.close()

    found = asyncio.run(stored())
    if found != count:
        raise RuntimeError(f"{count} events were sent and {found} are stored; nothing is reported")
