"""The faults. Each breaks a stack under load. When it returns, every part runs again."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import asyncpg
import redis

from faults.parts import Part
from faults.stack import FaultStack

_DOWN_S = 1.0
_FULL_S = 5.0


class Fault(NamedTuple):
    """One fault. ``worker`` is the module that runs as the first worker."""

    name: str
    strike: Callable[[FaultStack, float], Awaitable[None]]
    worker: str = "services.worker.main"


async def _restart(part: Part) -> None:
    await asyncio.to_thread(part.kill)
    await asyncio.sleep(_DOWN_S)
    await asyncio.to_thread(part.start)


async def kill_api(stack: FaultStack, _: float) -> None:
    await _restart(stack.api)


async def kill_worker(stack: FaultStack, _: float) -> None:
    await _restart(stack.workers[0])


async def kill_redis(stack: FaultStack, _: float) -> None:
    await _restart(stack.redis)


async def kill_postgres(stack: FaultStack, _: float) -> None:
    await _restart(stack.postgres)


async def redis_full(stack: FaultStack, _: float) -> None:
    """Redis gets no more memory and evicts nothing, so every append fails until the limit is removed."""
    client = redis.Redis.from_url(stack.redis_url)
    try:
        info: Any = client.info("memory")
        client.config_set("maxmemory", max(1, int(info["used_memory"]) // 2))
        await asyncio.sleep(_FULL_S)
        client.config_set("maxmemory", 0)
    finally:
        client.close()


async def postgres_refuses(stack: FaultStack, outage_s: float) -> None:
    """Postgres runs, but refuses all connections to the database."""
    conn = await asyncpg.connect(stack.database.dsn.replace("/relay?", "/postgres?"))
    try:
        await conn.execute("ALTER DATABASE relay ALLOW_CONNECTIONS false")
        await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'relay'")
        await asyncio.sleep(outage_s)
        await conn.execute("ALTER DATABASE relay ALLOW_CONNECTIONS true")
    finally:
        await conn.close()


async def two_workers(stack: FaultStack, _: float) -> None:
    """A second worker joins; the first is killed and starts again; the second is stopped."""
    second = await asyncio.to_thread(stack.add_worker)
    await asyncio.sleep(2)
    await _restart(stack.workers[0])
    stack.workers.remove(second)
    await asyncio.to_thread(second.stop)


async def clock_jumps(stack: FaultStack, _: float) -> None:
    process = stack.workers[0].process
    assert process is not None
    for _ in range(3):
        process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(1)


FAULTS = (
    Fault("kill -9 of the api", kill_api),
    Fault("kill -9 of the worker", kill_worker),
    Fault("kill -9 of Redis", kill_redis),
    Fault("kill -9 of Postgres", kill_postgres),
    Fault("Redis full", redis_full),
    Fault("Postgres refuses connections", postgres_refuses),
    Fault("two workers, one killed", two_workers),
    Fault("clock of the worker jumps", clock_jumps, worker="faults.shifted_worker"),
)
