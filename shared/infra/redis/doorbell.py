"""The Dramatiq message that wakes the fold of a partition, known to the API that sends it and the worker that acts on it."""

import asyncio
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import xq_name
from dramatiq.middleware import Middleware

QUEUE = "fold"
ACTOR = "fold_partition"
# A dead message is a defect to be looked at, so it is kept a month instead of Dramatiq's week.
_DEAD_MESSAGE_TTL_MS = 30 * 24 * 3_600_000
_NAMESPACE = "relay:dramatiq"


def create_broker(redis_url: str, middleware: list[Middleware]) -> RedisBroker:
    """The broker on Redis. Its client gives up after seconds, so that an unreachable Redis holds no thread for ever."""
    client = redis.Redis.from_url(redis_url, protocol=2, socket_connect_timeout=2, socket_timeout=5)
    broker = RedisBroker(
        client=client, middleware=middleware, dead_message_ttl=_DEAD_MESSAGE_TTL_MS, namespace=_NAMESPACE
    )
    broker.declare_queue(QUEUE)
    return broker


def dead_messages(broker: RedisBroker) -> int:
    """How many messages failed for good. Blocks; raises ``redis.RedisError``."""
    return sum(int(broker.client.zcard(f"{_NAMESPACE}:{xq_name(queue)}")) for queue in broker.get_declared_queues())


def wake_message(partition: int) -> "dramatiq.Message[Any]":
    """Wakes the fold of one partition. It carries nothing of the events: any number of them may be lost or repeated."""
    return dramatiq.Message(queue_name=QUEUE, actor_name=ACTOR, args=(partition,), kwargs={}, options={})


async def wake(broker: dramatiq.Broker, partitions: list[int]) -> None:
    """Enqueues in a thread: Dramatiq's enqueue blocks. Raises ``redis.RedisError``; the sweep makes up for it."""
    if partitions:
        await asyncio.to_thread(_enqueue, broker, partitions)


def _enqueue(broker: dramatiq.Broker, partitions: list[int]) -> None:
    for partition in partitions:
        broker.enqueue(wake_message(partition))
