"""The request to stop a process, which a signal handler may make at any moment."""

import queue
from contextlib import suppress


class StopRequest:
    """An event that signal handlers and threads can set.

    A handler interrupts the main thread between any two instructions. ``threading.Event`` takes a lock to set and to wait, so
    a handler could wait for a lock that the interrupted code holds, forever. ``SimpleQueue.put`` is reentrant.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self._requests.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` and return whether the stop was requested. For one thread."""
        with suppress(queue.Empty):
            self._requests.get(timeout=timeout_s)
            self.set()  # the request stands
            return True
        return False
