"""The usage that simulated meetings should add up to.

It is computed from the plan of the meetings and shares no code with the meter, so that it can show an error of the meter.
"""

from collections import defaultdict
from datetime import UTC, datetime

import msgspec

from services.cli.simulate.traffic import Stay

_DAY_MS = 86_400_000


class DayExpected(msgspec.Struct, rename="camel"):
    """The expected usage of a project and mode on one UTC day."""

    project_id: str
    mode: str
    date: str
    participant_ms: int = 0
    video_ms: int = 0
    audio_ms: int = 0
    peak_participants: int = 0


def expected(stays: list[Stay]) -> list[DayExpected]:
    """Add up the stays by project, mode and UTC day."""
    days: dict[tuple[str, str, int], DayExpected] = {}
    edges: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def day_of(stay: Stay, day: int) -> DayExpected:
        key = (stay.project_id, stay.mode, day)
        if key not in days:
            date = datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).date().isoformat()
            days[key] = DayExpected(stay.project_id, stay.mode, date)
        return days[key]

    for stay in stays:
        video = _union(stay.video)
        for day in range(stay.start_ms // _DAY_MS, stay.end_ms // _DAY_MS + 1):
            begin, end = day * _DAY_MS, (day + 1) * _DAY_MS
            connected = _overlap(stay.start_ms, stay.end_ms, begin, end)
            if not connected:
                continue
            total = day_of(stay, day)
            seen = sum(_overlap(on, off, begin, end) for on, off in video)
            total.participant_ms += connected
            total.video_ms += seen
            total.audio_ms += connected - seen
        if stay.end_ms > stay.start_ms:
            edges[stay.project_id, stay.mode] += [(stay.start_ms, 1), (stay.end_ms, -1)]
    for (project_id, mode), changes in edges.items():
        _peaks(days, project_id, mode, sorted(changes))
    return sorted(days.values(), key=lambda day: (day.project_id, day.mode, day.date))


def _peaks(
    days: dict[tuple[str, str, int], DayExpected], project_id: str, mode: str, changes: list[tuple[int, int]]
) -> None:
    for (owner, day_mode, day), total in days.items():
        if (owner, day_mode) != (project_id, mode):
            continue
        begin, end = day * _DAY_MS, (day + 1) * _DAY_MS
        # Start with those connected at midnight, then apply every change. At the same instant, -1 sorts before +1.
        level = sum(change for at_ms, change in changes if at_ms <= begin)
        total.peak_participants = level
        for at_ms, change in changes:
            if begin < at_ms < end:
                level += change
                total.peak_participants = max(total.peak_participants, level)


def _overlap(a: int, b: int, begin: int, end: int) -> int:
    return max(0, min(b, end) - max(a, begin))


def _union(spans: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for on, off in sorted(spans):
        if merged and on <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], off))
        else:
            merged.append((on, off))
    return merged
