"""The Dramatiq message that wakes the fold of a partition. The API sends it, the worker acts on it."""

import asyncio
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware

from shared.infra.clock import DAY_MS

QUEUE = "fold"
ACTOR = "fold_partition"
# A dead message is a defect to look into, so it is kept for 30 days instead of Dramatiq's 7.
DEAD_MESSAGE_TTL_MS = 30 * DAY_MS
_NAMESPACE = "relay:dramatiq"


def create_broker(redis_url: str, middleware: list[Middleware]) -> RedisBroker:
    """Create the broker on Redis.

    Its client times out after seconds, so that an unreachable Redis does not block a thread forever.
    """
    client = redis.Redis.from_url(redis_url, protocol=2, socket_connect_timeout=2, socket_timeout=5)
    broker = RedisBroker(
        client=client, middleware=middleware, dead_message_ttl=DEAD_MESSAGE_TTL_MS, namespace=_NAMESPACE
    )
    broker.declare_queue(QUEUE)
    return broker


def wake_message(partition: int) -> "dramatiq.Message[Any]":
    """Create the message that wakes the fold of one partition.

    It contains no event, because messages may be lost or repeated.
    """
    return dramatiq.Message(queue_name=QUEUE, actor_name=ACTOR, args=(partition,), kwargs={}, options={})


async def wake(broker: dramatiq.Broker, partitions: list[int]) -> None:
    """Enqueue a wake message for each partition, in a thread, because Dramatiq's enqueue blocks.

    Raises ``redis.RedisError``. The worker's sweep then wakes these partitions.
    """
    if partitions:
        await asyncio.to_thread(_enqueue, broker, partitions)


def _enqueue(broker: dramatiq.Broker, partitions: list[int]) -> None:
    for partition in partitions:
        broker.enqueue(wake_message(partition))
