"""The undocumented parts of Dramatiq that Relay uses, as they are in Dramatiq 2.2.

pyproject.toml bounds the version, and tests/unit/test_library_internals.py fails when these parts move.
"""

import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import dramatiq
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import xq_name
from dramatiq.middleware import MiddlewareError

T = TypeVar("T")


def dead_messages(broker: RedisBroker) -> int:
    """Count the messages that failed for good.

    Dramatiq keeps them in one sorted set for each queue. Blocks. Raises ``redis.RedisError``.
    """
    queues = broker.get_declared_queues()
    return sum(int(broker.client.zcard(f"{broker.namespace}:{xq_name(queue)}")) for queue in queues)


def run_on_event_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop of the ``AsyncIO`` middleware, and wait for its result.

    Raises ``MiddlewareError`` where that loop does not run.
    """
    thread = get_event_loop_thread()
    if thread is None or not thread.loop.is_running():
        coroutine.close()
        raise MiddlewareError("the event loop does not run: AsyncIO must stand before this middleware")
    return thread.run_coroutine(coroutine)


def dead_thread(worker: dramatiq.Worker) -> str | None:
    """Return the name of a thread of a started worker that has ended, or None while all of them run."""
    threads: list[tuple[str, threading.Thread | None]] = [("event loop", get_event_loop_thread())]
    threads += [("worker thread", thread) for thread in worker.workers]
    threads += [(f"consumer of {queue}", thread) for queue, thread in worker.consumers.items()]
    return next((name for name, thread in threads if thread is None or not thread.is_alive()), None)
