"""The event streams on a Redis Cluster of three nodes. Everything else runs unchanged."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.cli.doctor.redis_servers import check_redis
from shared.infra.clock import SystemClock
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings
from shared.models.received import Received
from tests.e2e.test_worker_killed import kill_under_load
from tests.ports import bus_free_port
from tests.redis_cluster import LocalRedisCluster, Node, redis_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalRedisCluster]:
    """Three nodes that hold all slots."""
    with redis_cluster(tmp_path) as running:
        yield running


@pytest.fixture
def clustered(settings: Settings, cluster: LocalRedisCluster) -> Settings:
    return msgspec.structs.replace(settings, redis_streams_url=cluster.url)


async def test_one_append_reaches_partitions_on_all_nodes(clustered: Settings, pool: Pool) -> None:
    streams = event_stream.connect_streams(clustered)
    now_ms = SystemClock().now_ms()
    try:
        partitions = range(event_stream.PARTITIONS)
        silent = await event_stream.append(
            streams, [(p, Received(now_ms + p, b"%d" % p)) for p in partitions for _ in "ab"]
        )
        assert silent == list(partitions)
        assert await event_stream.append(streams, [(3, Received(now_ms, b"3"))]) == []  # its bell is already set
        assert await event_stream.lengths(streams) == [3 if p == 3 else 2 for p in partitions]
        assert await event_stream.oldest_unfolded_ms(streams) == now_ms
        for partition in partitions:
            batch = await event_stream.read_batch(streams, partition, 10)
            assert {received.body for _, received in batch} == {b"%d" % partition}
            await event_stream.silence_bell(streams, partition)
            await event_stream.acknowledge(streams, partition, [entry_id for entry_id, _ in batch])
        assert await event_stream.unfolded(streams) == []
        sizes = [await streams.dbsize(target_nodes=node) for node in streams.get_primaries()]  # type: ignore[attr-defined]  # of a cluster client
        assert all(sizes), sizes
    finally:
        await streams.aclose()


async def test_the_doctor_checks_each_node(clustered: Settings, cluster: LocalRedisCluster) -> None:
    now_ms = SystemClock().now_ms()
    findings = await check_redis(clustered, now_ms)
    assert [(finding.check, finding.level) for finding in findings] == [
        ("redis", "ok"), ("redis cluster", "ok"), ("backlog", "ok"),
    ], findings  # fmt: skip
    assert findings[1].fact == "3 nodes answer, and each syncs its append-only file before it answers"
    second, third = (f"node 127.0.0.1:{node.port}: " for node in cluster.nodes[1:])
    cluster.nodes[1].client.config_set("appendfsync", "everysec")
    cluster.nodes[2].client.config_set("maxmemory-policy", "allkeys-lru")
    findings = await check_redis(clustered, now_ms)
    told = {finding.fact: (finding.level, finding.advice) for finding in findings if finding.level != "ok"}
    assert told == {
        second + "a crash of Redis can lose acknowledged webhooks": (
            "error",
            "set `appendonly yes` and `appendfsync always`",
        ),
        third + "when Redis is full, it deletes waiting events": ("error", "set `maxmemory-policy noeviction`"),
    }
    streams = event_stream.connect_streams(clustered)
    assert await event_stream.is_durable(streams) is False
    await streams.aclose()


async def test_the_doctor_names_an_unreachable_node(clustered: Settings, cluster: LocalRedisCluster) -> None:
    cluster.nodes[2].kill()
    findings = await check_redis(clustered, SystemClock().now_ms())
    told = [finding for finding in findings if finding.level == "error"]
    assert told[0].fact.startswith(f"node 127.0.0.1:{cluster.nodes[2].port}: cannot be reached"), told
    assert "some of the streams cannot be read" in told[1].fact, told
    assert all(finding.check == "redis cluster" and finding.advice for finding in told), told


async def test_the_doctor_distinguishes_a_single_redis_from_a_cluster(settings: Settings, tmp_path: Path) -> None:
    alone = Node(tmp_path / "alone", {"cluster-enabled": "no"})
    alone.start()
    try:
        named = msgspec.structs.replace(settings, redis_streams_url=f"redis://127.0.0.1:{alone.port}")
        findings = await check_redis(named, SystemClock().now_ms())
    finally:
        alone.kill()
        alone.client.close()
    assert [(finding.check, finding.level) for finding in findings] == [("redis", "ok"), ("redis cluster", "error")]
    assert "for a single Redis use REDIS_URL alone" in findings[1].advice


async def test_killed_workers_lose_and_duplicate_nothing_on_a_cluster(clustered: Settings, tmp_path: Path) -> None:
    await kill_under_load(clustered, tmp_path, kills=3, events=8000)


async def test_an_unreachable_cluster_raises_unavailable(settings: Settings) -> None:
    nowhere = msgspec.structs.replace(settings, redis_streams_url=f"redis://127.0.0.1:{bus_free_port()}")
    streams = event_stream.connect_streams(nowhere)
    with pytest.raises(event_stream.UNAVAILABLE):
        async with asyncio.timeout(10):
            await event_stream.append(streams, [(0, Received(0, b"{}"))])
    await streams.aclose()
