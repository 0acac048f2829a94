"""Share the event loop fairly among clients that have shown no key or signature.

Without this, hundreds of such clients are all served within one turn of the loop, and a client with a key waits for all of
them. Clients with a key never wait here.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

# Reads of request bodies in one turn of the loop. One read takes up to 256 KiB, which is about 0.1 ms.
_READS: Final = 4


class Turns:
    """A queue: each turn of the loop starts one request and resumes ``_READS`` connections."""

    def __init__(self) -> None:
        self._reads: deque[Callable[[], None]] = deque()
        self._starts: deque[Callable[[], None]] = deque()
        self._is_scheduled = self._has_started = False

    @property
    def may_start(self) -> bool:
        """Whether a request may start at once: none has started in this turn, and none waits."""
        return not self._has_started and not self._starts

    def start(self, begin: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call ``begin`` at once if the turn allows it, otherwise in a later turn."""
        if self.may_start:
            self._has_started = True
            begin()
        else:
            self._starts.append(begin)
        self._schedule(loop)

    def read(self, resume: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call ``resume`` in a later turn."""
        self._reads.append(resume)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        self._has_started = bool(self._starts)
        if self._starts or self._reads:
            self._schedule(loop)
        for _ in range(min(_READS, len(self._reads))):
            self._reads.popleft()()
        if self._starts:
            self._starts.popleft()()
