"""Clocks and times in unix milliseconds.

Functions take ``now_ms``; only the edge of a process reads a clock.
"""

import time
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MINUTE_MS = 60_000
SECOND_MS = 1000


@runtime_checkable
class Clock(Protocol):
    """A source of the time in unix milliseconds (UTC)."""

    def now_ms(self) -> int: ...


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def rfc3339(at_ms: int) -> str:
    """Format unix milliseconds like ``2026-06-18T00:00:00.000Z``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_ms(at_ms: int) -> datetime:
    """Turn unix milliseconds into a UTC datetime."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def floor_to(at_ms: int, unit_ms: int) -> int:
    """Return the start of the UTC hour, day or minute that contains ``at_ms``."""
    return at_ms - at_ms % unit_ms
