"""Peak concurrency from pieces.

A stretch of time is summed up by two numbers: by how much the number of participants changed over it, and the greatest
level reached inside it, both relative to its start. Two neighbouring stretches combine into one without looking inside
(``combine``), so minutes make hours, hours make days, and a batch recomputes only the minutes it touched. Within one
millisecond ends come before starts: half-open intervals that touch do not overlap.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Stretch(NamedTuple):
    """``change``: participants at the end minus at the start. ``peak``: greatest level inside, relative to the start."""

    change: int
    peak: int


EMPTY = Stretch(0, 0)


def combine(first: Stretch, second: Stretch) -> Stretch:
    """Two stretches that follow one another; associative, and ``EMPTY`` changes nothing that lies inside a longer one."""
    return Stretch(first.change + second.change, max(first.peak, first.change + second.peak))


def daily_peaks(carried_in: int, days: Iterable[Stretch]) -> list[int]:
    """The greatest number of simultaneous participants of each day, given how many were connected when the first began."""
    level, peaks = carried_in, []
    for day in days:
        peaks.append(max(0, level + day.peak))
        level += day.change
    return peaks
