"""The straightforward worker: one Dramatiq message and one transaction for each event.

SQL and merging are Relay's.
"""

import sys
import time
from base64 import b64decode, b64encode

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, Middleware

from shared.infra.postgres.pool import Pool, create_pool
from shared.infra.redis.event_stream import partition_of
from shared.infra.settings import environment, parse_database_url
from shared.ledger.fold import fold_batch
from shared.models.received import Received

_pool: Pool | None = None


class _Open(Middleware):
    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        from dramatiq.asyncio import get_event_loop_thread

        thread = get_event_loop_thread()
        assert thread is not None
        thread.run_coroutine(_open())


async def _open() -> None:
    global _pool
    _pool = await create_pool(parse_database_url(environment()["DATABASE_URL"]), "peer", max_size=8)


def broker() -> RedisBroker:
    return RedisBroker(
        client=redis.Redis.from_url(environment()["REDIS_URL"]), middleware=[AsyncIO(), _Open()], namespace="peer"
    )


async def _fold(body: str, received_ms: int) -> None:
    assert _pool is not None
    raw = b64decode(body)
    async with _pool.acquire() as conn:
        await fold_batch(conn, partition_of(raw), [Received(received_ms, raw)])


def message(body: bytes, received_ms: int) -> "dramatiq.Message[None]":
    text = b64encode(body).decode()
    return dramatiq.Message(queue_name="peer", actor_name="peer_fold", args=(text, received_ms), kwargs={}, options={})


def main() -> None:
    """Work until it is terminated."""
    ours = broker()
    dramatiq.actor(actor_name="peer_fold", queue_name="peer", broker=ours)(_fold)
    worker = dramatiq.Worker(ours, worker_threads=8, worker_timeout=100)
    worker.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
