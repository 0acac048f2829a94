"""How long a page waits for LiveKit: hardly at all while it is known to be away.

Without it every page that shows rooms, and every look of a live one, waits out a LiveKit that does not answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import LiveKitTimedOut, LiveKitUnreachable

T = TypeVar("T")
PATIENCE_S = 1.0
# Enough for a LiveKit nearby that is back; one far away is found again once the verdict is forgotten.
SHORT_PATIENCE_S = 0.03
FORGOTTEN_AFTER_S = 10.0


class LiveKitPatience:
    """One for the process. For questions alone: an order that is given up may have been carried out."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._away_since: float | None = None

    async def ask(self, question: Awaitable[T]) -> T:
        """Raises what the question raises, and ``LiveKitUnreachable`` when it takes too long."""
        now = self._monotonic()
        if self._away_since is not None and now - self._away_since > FORGOTTEN_AFTER_S:
            self._away_since = None
        try:
            async with asyncio.timeout(PATIENCE_S if self._away_since is None else SHORT_PATIENCE_S):
                answer = await question
        except (TimeoutError, LiveKitTimedOut, LiveKitUnreachable):
            # Counted from the first: a short question that fails proves little, and must not put the long one off.
            self._away_since = now if self._away_since is None else self._away_since
            raise LiveKitUnreachable from None
        except Exception:
            self._away_since = None
            raise
        self._away_since = None
        return answer
