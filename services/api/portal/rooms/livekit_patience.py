"""Limit how long a page waits for LiveKit: one second, or 30 ms after LiveKit did not answer.

Otherwise every page that shows rooms would be slow while LiveKit is down.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import LiveKitTimedOut, LiveKitUnreachable

T = TypeVar("T")
PATIENCE_S = 1.0
# Enough to notice that a nearby LiveKit is back. A distant one is tried with the long limit after ``FORGOTTEN_AFTER_S``.
SHORT_PATIENCE_S = 0.03
FORGOTTEN_AFTER_S = 10.0


class LiveKitPatience:
    """Shared by all pages of the process.

    For reads only: LiveKit may still carry out a change that timed out.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._away_since: float | None = None

    async def ask(self, question: Awaitable[T]) -> T:
        """Await a read. Raises what it raises, and ``LiveKitUnreachable`` when it takes too long."""
        now = self._monotonic()
        if self._away_since is not None and now - self._away_since > FORGOTTEN_AFTER_S:
            self._away_since = None
        try:
            async with asyncio.timeout(PATIENCE_S if self._away_since is None else SHORT_PATIENCE_S):
                answer = await question
        except (TimeoutError, LiveKitTimedOut, LiveKitUnreachable):
            # Counted from the first failure, so that failures of short waits do not delay the next long one.
            self._away_since = now if self._away_since is None else self._away_since
            raise LiveKitUnreachable from None
        except Exception:
            self._away_since = None
            raise
        self._away_since = None
        return answer
