"""Ending background tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_AFTER_S = 1.0


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels until each has ended: a cancellation that meets the end of a time-out inside a driver can get lost, and a loop
    would go on for ever. That happens when a server vanishes at the same moment, as in the end of a machine."""
    given = list(tasks)
    pending = set(given)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_AFTER_S)
    await asyncio.gather(*given, return_exceptions=True)
