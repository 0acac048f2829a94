"""Define the worker's Dramatiq actors, thin wrappers around plain functions."""

import logging
from collections.abc import Awaitable, Callable

import dramatiq

from services.worker.broker import Resources
from services.worker.drain import drain_partition
from shared.infra import metrics
from shared.infra.postgres.errors import UNAVAILABLE as POSTGRES_UNAVAILABLE
from shared.infra.redis.doorbell import ACTOR, QUEUE
from shared.infra.redis.errors import UNAVAILABLE as REDIS_UNAVAILABLE

log = logging.getLogger("relay.worker")


def register_actors(broker: dramatiq.Broker, resources: Resources) -> None:
    """Register every actor with ``broker``."""
    dramatiq.actor(actor_name=ACTOR, queue_name=QUEUE, broker=broker)(_fold_partition(resources))


def _fold_partition(resources: Resources) -> Callable[[int], Awaitable[None]]:
    async def fold_partition(partition: int) -> None:
        try:
            result = await drain_partition(
                resources.pool, resources.redis, partition, lambda: resources.pulse.stopping, resources.turns
            )
        except (*POSTGRES_UNAVAILABLE, *REDIS_UNAVAILABLE) as error:
            # Only committed events were acknowledged. The sweep wakes this partition again.
            metrics.fold_failures.labels(type(error).__name__).inc()
            log.warning("partition %d: %s; the sweep will try again", partition, error or type(error).__name__)
            return
        if result.folded or result.set_aside:
            log.debug("partition %d: %s", partition, result)

    return fold_partition
