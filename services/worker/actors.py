"""The actors: thin shells over plain functions."""

import logging
from collections.abc import Awaitable, Callable

import dramatiq

from services.worker.broker import Resources
from services.worker.drain import drain_partition
from shared.infra import metrics
from shared.infra.postgres.pool import UNAVAILABLE
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import ACTOR, QUEUE

log = logging.getLogger("relay.worker")


def register_actors(broker: dramatiq.Broker, resources: Resources) -> None:
    """Declares every actor on ``broker``."""
    dramatiq.actor(actor_name=ACTOR, queue_name=QUEUE, broker=broker)(_fold_partition(resources))


def _fold_partition(resources: Resources) -> Callable[[int], Awaitable[None]]:
    async def fold_partition(partition: int) -> None:
        try:
            result = await drain_partition(
                resources.pool, resources.redis, partition, lambda: resources.pulse.stopping, resources.turns
            )
        except (*UNAVAILABLE, *event_stream.UNAVAILABLE) as error:
            # Nothing was acknowledged that was not committed; the sweep wakes this partition again.
            metrics.fold_failures.labels(type(error).__name__).inc()
            log.warning("partition %d: %s; the sweep will try again", partition, error or type(error).__name__)
            return
        if result.folded or result.set_aside:
            log.debug("partition %d: %s", partition, result)

    return fold_partition
