"""Log a repeated fault a few times, then only count it.

A full disk, or a Postgres that is away, fails every request and every batch in the same way. The first lines say what is wrong.
Thousands more only fill the log, which may be on the full disk. The filter passes ``BURST`` lines of a kind in ``WINDOW_S``
seconds and counts the others. The first line of any kind after that reports their number (``not_logged``).
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 5
WINDOW_S = 60.0
# The number of kinds to remember. Beyond it the oldest is forgotten, so its next line passes.
KINDS = 1000
Kind = tuple[str, int, str, str]


class _Window:
    """Counts the lines of one kind since ``started``: those that passed and those that were dropped."""

    __slots__ = ("dropped", "passed", "started")

    def __init__(self, started: float) -> None:
        self.started, self.passed, self.dropped = started, 0, 0


class FloodFilter(logging.Filter):
    """A filter for a log handler, which limits repeated warnings and errors.

    Lines below WARNING always pass. Lines are of one kind if they share logger, level, text before formatting and type of
    exception.
    """

    def __init__(
        self, burst: int = BURST, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst, self._window_s, self._clock = burst, window_s, clock
        # In the order of their start.
        self._windows: OrderedDict[Kind, _Window] = OrderedDict()
        self._ended: dict[Kind, int] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            now = self._clock()
            self._end_windows(now)
            passes = record.levelno < logging.WARNING or self._takes(record, now)
            if passes and self._ended:
                lost = [
                    {"count": count, "logger": name, "level": logging.getLevelName(level).lower(), "event": text}
                    for (name, level, text, _), count in self._ended.items()
                ]
                _note(record, "not_logged", lost)
                self._ended = {}
            return passes

    def _takes(self, record: logging.LogRecord, now: float) -> bool:
        kind = _kind_of(record)
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now)
            if len(self._windows) > KINDS:
                self._end(*self._windows.popitem(last=False))
        if window.passed == self._burst:
            window.dropped += 1
            return False
        window.passed += 1
        if window.passed == self._burst:
            _note(record, "repeats", f"counted and not logged for {self._window_s:g} s")
        return True

    def _end_windows(self, now: float) -> None:
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if now - window.started < self._window_s:
                return
            del self._windows[kind]
            self._end(kind, window)

    def _end(self, kind: Kind, window: _Window) -> None:
        if window.dropped:
            self._ended[kind] = self._ended.get(kind, 0) + window.dropped


def _note(record: logging.LogRecord, name: str, value: object) -> None:
    message: object = record.msg
    if isinstance(message, dict):  # from structlog
        record.msg = {**message, name: value}
    else:
        setattr(record, name, value)


def _kind_of(record: logging.LogRecord) -> Kind:
    failure = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    # structlog passes a dictionary.
    message: object = record.msg
    text = message.get("event", "") if isinstance(message, dict) else message
    return record.name, record.levelno, str(text)[:200], failure
