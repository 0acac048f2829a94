"""Run background tasks as long as their process, and end them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

log = logging.getLogger("relay")

_AGAIN_AFTER_S = 1.0


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks repeatedly until each has ended.

    A single cancellation can get lost if a time-out inside a driver ends at the same moment. A loop would then run forever.
    This happens when a server disappears at that moment, for example when a machine shuts down.
    """
    given = list(tasks)
    pending = set(given)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_AFTER_S)
    await asyncio.gather(*given, return_exceptions=True)


class Background:
    """Tasks that must not end before ``end`` is called.

    ``failed`` is called with the name of a task that does, so that its process can end instead of running without it.
    """

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Start a task on the running event loop."""
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def expect_end(self) -> None:
        """Allow tasks to end by themselves from now on."""
        self._ending = True

    async def end(self) -> None:
        """Cancel the tasks that still run, and return when all tasks have ended."""
        self._ending = True
        await end_tasks(self._tasks)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical("the background task %r failed", task.get_name(), exc_info=error)
        if not self._ending:
            self._failed(task.get_name())
