"""Compute peak concurrency from stretches of time.

Two numbers describe a stretch: the change in the number of participants over it, and the greatest level inside it. Both are
relative to its start. Two adjacent stretches can be combined from these numbers alone (``combine``). So hours are combined from
minutes and days from hours, and a batch recomputes only the minutes that it touched. Within one millisecond, ends come before
starts: half-open intervals that touch do not overlap.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Stretch(NamedTuple):
    """The change of the number of participants over a stretch of time.

    ``change``: participants at the end minus at the start. ``peak``: the greatest level inside, relative to the start.
    """

    change: int
    peak: int


EMPTY = Stretch(0, 0)


def combine(first: Stretch, second: Stretch) -> Stretch:
    """Combine two stretches that follow one another.

    Associative; ``EMPTY`` is neutral inside a longer stretch.
    """
    return Stretch(first.change + second.change, max(first.peak, first.change + second.peak))


def daily_peaks(carried_in: int, days: Iterable[Stretch]) -> list[int]:
    """Return the greatest number of simultaneous participants of each day.

    ``carried_in``: participants connected when the first day began.
    """
    level, peaks = carried_in, []
    for day in days:
        peaks.append(max(0, level + day.peak))
        level += day.change
    return peaks
