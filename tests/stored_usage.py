"""What the rollups of a scope say, by UTC day, for tests that only want that."""

from collections import defaultdict
from typing import NamedTuple

from shared.clock import DAY_MS
from shared.metering.peak import Stretch
from shared.postgres import Connection
from shared.queries import usage_ranges
from shared.queries.usage import Scope


class DayUsage(NamedTuple):
    """Milliseconds."""

    participant_ms: int
    video_ms: int


async def usage_by_day(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, DayUsage]:
    """The days of ``[from_ms, to_ms)`` that have usage, all kinds together."""
    days: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for (day, _), usage in (await usage_ranges.ended_usage(conn, scope, from_ms, to_ms, DAY_MS)).items():
        days[day][0] += usage.participant_ms
        days[day][1] += usage.video_ms
    return {day: DayUsage(*amounts) for day, amounts in days.items()}


async def stretches_by_day(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, Stretch]:
    """The days of ``[from_ms, to_ms)`` in which sessions started or ended."""
    _, stretches = await usage_ranges.stretches(conn, scope, from_ms, to_ms, DAY_MS, 0)
    return stretches
