"""Compute amounts by UTC hour: single hours where something begins or ends, and ranges of equal hours.

So a year costs no more time and memory than two hours. All times are unix milliseconds.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from operator import add, sub
from typing import Generic, NamedTuple, TypeVar

from shared.infra.clock import DAY_MS, HOUR_MS, floor_to

Key = TypeVar("Key", bound=Hashable)
# The longest time that one connection counts. LiveKit is updated more often than this, and an update ends every connection.
MAX_SESSION_DAYS = 366
MAX_SESSION_MS = MAX_SESSION_DAYS * DAY_MS
# Intervals up to this length are cut into single hours, which is faster for them.
LONG_MS = 48 * HOUR_MS


class Usage(NamedTuple):
    """Milliseconds of one hour.

    Audio time is ``participant_ms - video_ms``: an instant without a video track is audio. ``inferred_ms`` is the part of
    ``participant_ms`` in sessions whose end no event confirmed. ``sessions`` counts the sessions that began in the hour.
    """

    participant_ms: int
    video_ms: int
    screen_share_ms: int = 0
    inferred_ms: int = 0
    sessions: int = 0

    def times(self, count: int) -> "Usage":
        """Return the usage of ``count`` such hours."""
        return Usage(*(count * amount for amount in self))


class WholeHours(NamedTuple):
    """``usage`` in each of the UTC hours of ``[from_ms, to_ms)``."""

    from_ms: int
    to_ms: int
    usage: Usage


class WholeDays(NamedTuple):
    """``usage`` in each of the UTC days of ``[from_ms, to_ms)``."""

    from_ms: int
    to_ms: int
    usage: Usage


def cut_into_hours(start_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start of the UTC hour, from, to) for each hour that ``[start_ms, end_ms)`` touches."""
    hour_ms = floor_to(start_ms, HOUR_MS)
    while hour_ms < end_ms:
        yield hour_ms, max(hour_ms, start_ms), min(hour_ms + HOUR_MS, end_ms)
        hour_ms += HOUR_MS


def cut_at_edges(start_ms: int, end_ms: int, edges: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Cut ``[start_ms, end_ms)`` into ascending pieces: UTC hours with an edge, and the ranges between."""
    hours = {floor_to(edge, HOUR_MS) for edge in (start_ms, *edges) if start_ms <= edge < end_ms}
    if end_ms % HOUR_MS:
        hours.add(floor_to(end_ms, HOUR_MS))
    at_ms = start_ms
    for hour_ms in sorted(hours):
        if at_ms < hour_ms:
            yield at_ms, hour_ms
        at_ms = min(hour_ms + HOUR_MS, end_ms)
        yield max(hour_ms, start_ms), at_ms
    if at_ms < end_ms:
        yield at_ms, end_ms


def covered(pieces: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return how much of each piece the spans cover (ms). Both are disjoint and ascending."""
    amounts, first = [], 0
    for begin, end in pieces:
        while first < len(spans) and spans[first][1] <= begin:
            first += 1
        amount, number = 0, first
        while number < len(spans) and spans[number][0] < end:
            on, off = spans[number]
            amount += min(off, end) - max(on, begin)
            number += 1
        amounts.append(amount)
    return amounts


def by_hour(spans: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return how much of each UTC hour the spans cover (ms)."""
    found: dict[int, int] = {}
    for on, off in spans:
        first_ms = floor_to(on, HOUR_MS)
        if off <= first_ms + HOUR_MS:  # Most tracks lie within one hour. This takes half the time of cutting.
            found[first_ms] = found.get(first_ms, 0) + off - on
            continue
        for hour_ms, begin, end in cut_into_hours(on, off):
            found[hour_ms] = found.get(hour_ms, 0) + end - begin
    return found


def days_of(whole: Iterable[WholeHours]) -> tuple[list[tuple[int, Usage]], list[WholeDays]]:
    """Group whole hours by UTC day: (day, usage) of the incomplete days, and the ranges of whole days."""
    parts: list[tuple[int, Usage]] = []
    days: list[WholeDays] = []
    for from_ms, to_ms, usage in whole:
        first_ms, last_ms = -floor_to(-from_ms, DAY_MS), floor_to(to_ms, DAY_MS)
        if first_ms > last_ms:
            parts.append((last_ms, usage.times((to_ms - from_ms) // HOUR_MS)))
            continue
        if from_ms < first_ms:
            parts.append((first_ms - DAY_MS, usage.times((first_ms - from_ms) // HOUR_MS)))
        if first_ms < last_ms:
            days.append(WholeDays(first_ms, last_ms, usage.times(24)))
        if last_ms < to_ms:
            parts.append((last_ms, usage.times((to_ms - last_ms) // HOUR_MS)))
    return parts, days


class Levels(Generic[Key]):
    """Sums of amounts that apply to ranges of time, stored as the changes at their ends."""

    def __init__(self) -> None:
        self._changes: dict[Key, dict[int, list[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._changes)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._changes)

    def add(self, key: Key, from_ms: int, to_ms: int, amounts: Sequence[int], sign: int = 1) -> None:
        """Add ``sign`` times ``amounts`` in each piece of ``[from_ms, to_ms)``."""
        changes = self._changes.setdefault(key, {})
        change = add if sign > 0 else sub
        for at_ms, function in ((from_ms, change), (to_ms, sub if sign > 0 else add)):
            known = changes.get(at_ms) or [0] * len(amounts)
            changes[at_ms] = list(map(function, known, amounts))

    def rows(self, unit_ms: int) -> Iterator[tuple[Key, int, list[int]]]:
        """Yield (key, start of a piece of ``unit_ms``, amounts) wherever an amount is not 0."""
        for key, changes in self._changes.items():
            level: list[int] = []
            for at_ms, next_ms in pairwise(sorted(changes)):
                level = list(map(add, level, changes[at_ms])) if level else changes[at_ms]
                if any(level):
                    for piece_ms in range(at_ms, next_ms, unit_ms):
                        yield key, piece_ms, level


class RunningLevels(Generic[Key]):
    """``Levels`` for a reader that moves forward in time. It drops the past."""

    def __init__(self) -> None:
        self._changes: list[tuple[int, int, Key, Sequence[int], int]] = []
        self._levels: dict[Key, list[int]] = {}
        self._number = 0

    def add(self, key: Key, from_ms: int, to_ms: int, amounts: Sequence[int]) -> None:
        """Add ``amounts`` in each piece of ``[from_ms, to_ms)``."""
        for at_ms, sign in ((from_ms, 1), (to_ms, -1)):
            self._number += 1  # Orders entries of the same instant, because keys may not be comparable.
            heappush(self._changes, (at_ms, self._number, key, amounts, sign))

    def at(self, at_ms: int) -> dict[Key, list[int]]:
        """Return the sums at ``at_ms``, which must not be before that of the last call."""
        while self._changes and self._changes[0][0] <= at_ms:
            _, _, key, amounts, sign = heappop(self._changes)
            level = self._levels.pop(key, None) or [0] * len(amounts)
            level = list(map(add if sign > 0 else sub, level, amounts))
            if any(level):
                self._levels[key] = level
        return self._levels
