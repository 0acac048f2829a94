"""Background tasks: they run as long as their process, and end together."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

log = logging.getLogger("relay")

_AGAIN_AFTER_S = 1.0


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels tasks until each has ended. One cancellation can get lost where it meets the end of a time-out inside a driver,
    and a loop would go on for ever. That happens when a server vanishes at the same moment, as when a machine is shut down."""
    given = list(tasks)
    pending = set(given)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_AFTER_S)
    await asyncio.gather(*given, return_exceptions=True)


class Background:
    """Tasks that must not end before ``end``. ``failed`` is called with the name of one that does, so that its process can end
    instead of going on without it."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def expect_end(self) -> None:
        """From now on a task may end by itself."""
        self._ending = True

    async def end(self) -> None:
        """Cancels what still runs, and returns when all of it has ended."""
        self._ending = True
        await end_tasks(self._tasks)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical("the background task %r failed", task.get_name(), exc_info=error)
        if not self._ending:
            self._failed(task.get_name())
