"""The Redis streams between webhook intake and the fold.

Each partition has one stream. The keys of a partition share a Redis Cluster hash tag. A worker that folds a partition holds its
lock in Postgres, reads the stream from the start and deletes the committed entries. What a crashed worker had read is still in
the stream. A consumer group would only add bookkeeping, which Redis writes to its append-only file, and syncs, with every read.
"""

from collections.abc import Sequence
from typing import Any, cast
from zlib import crc32

from redis import asyncio as redis_asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from shared.infra.redis.errors import UNAVAILABLE as UNAVAILABLE
from shared.infra.redis.redis_batch import Command, execute_all, execute_by_pipeline, keep_entries_as_sent
from shared.infra.settings import Settings
from shared.models.livekit_event import routing_key
from shared.models.received import Received

PARTITIONS = 16
# A bell whose wake message was lost (a crash in between) expires after this long. The next event then rings again.
BELL_TTL_MS = 2000
SOCKET_TIMEOUT_S = 2.0
# The size of a full batch. An event can be 8 MiB; with metadata and attributes at LiveKit's limits it is 200 kB.
BATCH_BYTES = 8 * 1024 * 1024
# A read can limit the number of entries, but not of bytes. An answer of thousands of large entries would exceed the time-out,
# every time. So the first read asks for a few entries, and later ones for more if the entries are small.
_FIRST_PIECE, _LARGEST_PIECE, _GROWTH = 8, 500, 8

Redis = redis_asyncio.Redis


def connect_redis(url: str) -> "Redis":
    """Create a client that times out after two seconds, which limits the delay by an unreachable Redis."""
    client: Redis = redis_asyncio.from_url(
        url,
        protocol=2,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=15,
    )
    keep_entries_as_sent(client)
    return client


def connect_streams(settings: Settings) -> "Redis":
    """Create the client of the streams.

    It is the client of a cluster if REDIS_STREAMS_URL names one of its nodes, otherwise of REDIS_URL. This module sends the
    same commands to both. The client of a cluster splits a pipeline by node, sends the parts at the same time, and returns the
    answers in the order of the commands. It connects with its first command, not here. It repeats a failed command once, after
    reading the slots again, which is enough for slots that have moved. By default it would repeat for seconds, and webhooks
    that could be in Postgres by then would wait for a lost node.
    """
    if settings.redis_streams_url is None:
        return connect_redis(settings.redis_url)
    cluster = RedisCluster.from_url(
        settings.redis_streams_url,
        protocol=2,
        retry=Retry(NoBackoff(), 1),
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=15,
    )
    keep_entries_as_sent(cluster)
    return cast("Redis", cluster)


def partition_of(body: bytes) -> int:
    """Return the partition of an event, by its egress, ingress or room."""
    return crc32(routing_key(body)) % PARTITIONS


def stream_key(partition: int) -> str:
    """Return the key of a partition's stream."""
    return f"relay:{{fold{partition}}}:events"


def bell_key(partition: int) -> str:
    """Return the key that exists while a wake message for the partition is on its way."""
    return f"relay:{{fold{partition}}}:bell"


_STREAM_KEYS = [stream_key(partition) for partition in range(PARTITIONS)]


async def append(redis: "Redis", entries: Sequence[tuple[int, Received]]) -> list[int]:
    """Append (partition, event) pairs in one round trip, and ring the bells of their partitions.

    Returns the partitions whose bell was silent before: the caller wakes their fold. Raises one of ``UNAVAILABLE``. Entries may
    have been appended even then, and appending them again is harmless.
    """
    commands: list[Command] = [
        ("XADD", _STREAM_KEYS[partition], "*", "t", received.received_ms, "b", received.body)
        if received.trace is None
        else ("XADD", _STREAM_KEYS[partition], "*", "t", received.received_ms, "b", received.body, "c", received.trace)
        for partition, received in entries
    ]
    partitions = sorted({partition for partition, _ in entries})
    commands += [("SET", bell_key(partition), 1, "NX", "PX", BELL_TTL_MS) for partition in partitions]
    if isinstance(redis, Redis):
        results = await execute_all(redis, commands, SOCKET_TIMEOUT_S)
    else:  # the client of a cluster knows the node of each command
        results = await execute_by_pipeline(redis, commands)
    return [partition for partition, rung in zip(partitions, results[len(entries) :], strict=True) if rung]


async def unfolded(redis: "Redis") -> list[int]:
    """Return the partitions that hold events."""
    return [partition for partition, length in enumerate(await lengths(redis)) if length]


def is_full(error: RedisError) -> bool:
    """Return whether Redis refused a command because it has reached its ``maxmemory``."""
    # For a script, Redis 6 reports this inside another error.
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error))


async def ring(redis: "Redis", waiting: Sequence[int]) -> list[int]:
    """Ring the bells of these partitions, and return those whose bell was silent. Called by the sweep."""
    if not waiting:
        return []
    pipeline = redis.pipeline(transaction=False)
    for partition in waiting:
        pipeline.set(bell_key(partition), 1, nx=True, px=BELL_TTL_MS)
    rung = await pipeline.execute()
    return [partition for partition, new in zip(waiting, rung, strict=True) if new]


async def silence_bell(redis: "Redis", partition: int) -> None:
    """Delete the bell. Called before reading, so that an event appended later rings again."""
    await redis.delete(bell_key(partition))


async def read_batch(redis: "Redis", partition: int, limit: int) -> list[tuple[bytes, Received]]:
    """Read the first entries of a partition as (entry id, event).

    Returns up to ``limit`` entries, fewer if they are large (``BATCH_BYTES``). They stay until they are acknowledged.
    """
    entries: list[tuple[bytes, Received]] = []
    size = 0
    start = b"-"
    while len(entries) < limit and size < BATCH_BYTES:
        count = min(limit - len(entries), _piece(len(entries), size))
        found: Any = await redis.xrange(stream_key(partition), min=start, count=count)
        for entry_id, fields in found:
            received = _received(fields)
            entries.append((entry_id, received))
            size += len(received.body)
        if len(found) < count:
            break
        start = b"(" + found[-1][0]
    return entries


def _piece(count: int, size: int) -> int:
    """Return how many entries to read next, after ``count`` entries of ``size`` bytes in all."""
    if not count:
        return _FIRST_PIECE
    # Estimated by the average so far. Large events may follow, so the number grows in steps.
    return max(1, min(_LARGEST_PIECE, _GROWTH * count, (BATCH_BYTES - size) * count // max(1, size)))


def _received(fields: Sequence[bytes]) -> Received:
    """Build an event from alternating names and values, in the order in which ``append`` sends them."""
    return Received(int(fields[1]), fields[3], fields[5].decode() if len(fields) > 4 else None)


async def acknowledge(redis: "Redis", partition: int, entry_ids: Sequence[bytes]) -> None:
    """Delete committed entries from the stream, by their ids.

    Not all up to the last id: after a failover to a node whose clock is behind, newer entries can have smaller ids.
    """
    if entry_ids:
        await redis.xdel(stream_key(partition), *entry_ids)


async def lengths(redis: "Redis") -> list[int]:
    """Return the number of waiting events in each partition."""
    pipeline = redis.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipeline.xlen(stream_key(partition))
    return [int(length) for length in await pipeline.execute()]


async def oldest_unfolded_ms(redis: "Redis") -> int | None:
    """Return when the oldest waiting event of all streams was received (unix ms); None if none waits."""
    pipeline = redis.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipeline.xrange(stream_key(partition), count=1)
    firsts = await pipeline.execute()
    return min((int(first[0][1][1]) for first in firsts if first), default=None)


async def nodes(redis: "Redis") -> list[tuple[str, dict[str, Any]]]:
    """List every server behind the client, including replicas.

    Yields its address and the arguments that send a command to it; both are empty for a single Redis. Raises one of
    ``UNAVAILABLE``.
    """
    cluster: Any = redis  # the client of a single Redis has no such methods
    if not isinstance(cluster, RedisCluster):
        return [("", {})]
    await cluster.initialize()
    return sorted(((node.name, {"target_nodes": node}) for node in cluster.get_nodes()), key=lambda node: node[0])


async def is_durable(redis: "Redis") -> bool | None:
    """Return whether Redis (each node of a cluster) syncs its append-only file before it answers.

    None where Redis does not permit reading its configuration.
    """
    verdicts = [await node_is_durable(redis, node) for _, node in await nodes(redis)]
    return False if False in verdicts else None if None in verdicts else True


async def node_is_durable(redis: "Redis", node: dict[str, Any]) -> bool | None:
    """Return ``is_durable`` for one of ``nodes``."""
    try:
        config = {**await redis.config_get("appendonly", **node), **await redis.config_get("appendfsync", **node)}
    except ResponseError:
        return None
    text = {_text(key): _text(value) for key, value in config.items()}
    return text.get("appendonly") == "yes" and text.get("appendfsync") == "always"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
