"""The Redis streams between webhook intake and the fold.

One stream a partition; a partition's keys share a Redis Cluster hash tag. Whoever folds a partition holds its lock in Postgres,
reads its stream from the start and deletes what was committed: what a crashed worker had read is simply still there. A consumer
group would add nothing but its bookkeeping, which Redis writes to its append-only file, and syncs, with every reading.
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
from shared.infra.redis.redis_batch import Command, execute_all, execute_by_pipeline
from shared.infra.settings import Settings
from shared.models.livekit_event import routing_key
from shared.models.received import Received

PARTITIONS = 16
# A ring that was lost (a crash between ringing and waking) is forgotten after this long, and the next event rings again.
BELL_TTL_MS = 2000
SOCKET_TIMEOUT_S = 2.0
# A batch is full when it holds so much. An event can be 8 MiB; with metadata and attributes at LiveKit's limits it is 200 kB.
BATCH_BYTES = 8 * 1024 * 1024
# Redis can be told how many entries to answer with, and not how many bytes. Asked for thousands of large ones at once it
# would still be answering when the time-out comes, every time; so it is asked for a few, and for more when they are small.
_FIRST_PIECE, _LARGEST_PIECE, _GROWTH = 8, 500, 8

Redis = redis_asyncio.Redis


def connect_redis(url: str) -> "Redis":
    """A client whose connections give up after two seconds, so that an unreachable Redis delays an answer no longer."""
    client: Redis = redis_asyncio.from_url(
        url,
        protocol=2,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=15,
    )
    client.set_response_callback("XRANGE", _as_sent)
    return client


def _as_sent(response: Any, **_: Any) -> Any:
    """redis-py makes a dictionary of each entry, which are half of what reading a batch costs; ``append`` always sends the same
    fields in the same order."""
    return response


def connect_streams(settings: Settings) -> "Redis":
    """The Redis of the streams: a cluster, where REDIS_STREAMS_URL names one of its nodes, else the Redis of everything.

    What this module asks is the same of both. A cluster's client splits a pipeline by node and asks them at the same time; the
    answers come back in the order of the commands. It joins the cluster with its first command, not here. It tries a command
    again once, having looked afresh who holds what: enough for slots that have moved. Left to itself it would try for seconds,
    and webhooks that could be in Postgres by then would wait for a lost node."""
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
    cluster.set_response_callback("XRANGE", _as_sent)
    return cast("Redis", cluster)


def partition_of(body: bytes) -> int:
    """The partition of an event, by its room (egress, ingress)."""
    return crc32(routing_key(body)) % PARTITIONS


def stream_key(partition: int) -> str:
    return f"relay:{{fold{partition}}}:events"


def bell_key(partition: int) -> str:
    return f"relay:{{fold{partition}}}:bell"


_STREAM_KEYS = [stream_key(partition) for partition in range(PARTITIONS)]


async def append(redis: "Redis", entries: Sequence[tuple[int, Received]]) -> list[int]:
    """Appends (partition, event) pairs in one round trip and rings the bells of their partitions. Returns the partitions
    whose bell was silent before: the caller wakes their fold. Raises one of ``UNAVAILABLE``; entries may then have been
    appended all the same, and appending them again is harmless."""
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
    else:  # a cluster: its client knows which node each command is for
        results = await execute_by_pipeline(redis, commands)
    return [partition for partition, rung in zip(partitions, results[len(entries) :], strict=True) if rung]


async def unfolded(redis: "Redis") -> list[int]:
    """The partitions that hold events."""
    return [partition for partition, length in enumerate(await lengths(redis)) if length]


def is_full(error: RedisError) -> bool:
    """Whether Redis refused a command because it has reached its ``maxmemory``."""
    # Of a script, Redis 6 tells it in the middle of another error.
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error))


async def ring(redis: "Redis", waiting: Sequence[int]) -> list[int]:
    """Rings for these partitions; returns those whose bell was silent. For the sweep, which finds the rings that were lost."""
    if not waiting:
        return []
    pipeline = redis.pipeline(transaction=False)
    for partition in waiting:
        pipeline.set(bell_key(partition), 1, nx=True, px=BELL_TTL_MS)
    rung = await pipeline.execute()
    return [partition for partition, new in zip(waiting, rung, strict=True) if new]


async def silence_bell(redis: "Redis", partition: int) -> None:
    """Before reading: whatever is appended from now on rings again."""
    await redis.delete(bell_key(partition))


async def read_batch(redis: "Redis", partition: int, limit: int) -> list[tuple[bytes, Received]]:
    """The first entries of a partition as (entry id, event): up to ``limit``, fewer when they are large (``BATCH_BYTES``). They
    stay until they are acknowledged."""
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
    """How many entries to ask for when ``count`` of ``size`` bytes have come."""
    if not count:
        return _FIRST_PIECE
    # By the average so far, which large events may follow: so in steps.
    return max(1, min(_LARGEST_PIECE, _GROWTH * count, (BATCH_BYTES - size) * count // max(1, size)))


def _received(fields: Sequence[bytes]) -> Received:
    """Of names and values in turn, as ``append`` sent them."""
    return Received(int(fields[1]), fields[3], fields[5].decode() if len(fields) > 4 else None)


async def acknowledge(redis: "Redis", partition: int, entry_ids: Sequence[bytes]) -> None:
    """After the commit: takes the entries off the stream. By their ids and not up to the last of them: after a failover to a
    node whose clock is behind, what was appended since may have lesser ids."""
    if entry_ids:
        await redis.xdel(stream_key(partition), *entry_ids)


async def lengths(redis: "Redis") -> list[int]:
    """How many events wait in each partition's stream."""
    pipeline = redis.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipeline.xlen(stream_key(partition))
    return [int(length) for length in await pipeline.execute()]


async def oldest_unfolded_ms(redis: "Redis") -> int | None:
    """When the oldest event that waits in any stream was received; None if nothing waits."""
    pipeline = redis.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipeline.xrange(stream_key(partition), count=1)
    firsts = await pipeline.execute()
    return min((int(first[0][1][1]) for first in firsts if first), default=None)


async def nodes(redis: "Redis") -> list[tuple[str, dict[str, Any]]]:
    """Every server behind the client, replicas included: its address, and the arguments by which a command is put to it. A
    Redis of its own needs neither. Raises one of ``UNAVAILABLE``."""
    cluster: Any = redis  # what is asked here, the client of a single Redis does not have
    if not isinstance(cluster, RedisCluster):
        return [("", {})]
    await cluster.initialize()
    return sorted(((node.name, {"target_nodes": node}) for node in cluster.get_nodes()), key=lambda node: node[0])


async def is_durable(redis: "Redis") -> bool | None:
    """Whether Redis, of a cluster each of its nodes, syncs its append-only file before it answers; None where it does not let
    us look."""
    verdicts = [await node_is_durable(redis, node) for _, node in await nodes(redis)]
    return False if False in verdicts else None if None in verdicts else True


async def node_is_durable(redis: "Redis", node: dict[str, Any]) -> bool | None:
    """``is_durable`` of one of ``nodes``."""
    try:
        config = {**await redis.config_get("appendonly", **node), **await redis.config_get("appendfsync", **node)}
    except ResponseError:
        return None
    text = {_text(key): _text(value) for key, value in config.items()}
    return text.get("appendonly") == "yes" and text.get("appendfsync") == "always"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
