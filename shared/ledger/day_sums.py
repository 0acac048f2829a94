"""Sum the rollups of UTC days from the stored sessions."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from operator import add

from shared.infra.clock import DAY_MS, HOUR_MS, floor_to
from shared.infra.postgres.pool import Connection
from shared.ledger.queries import audit as queries
from shared.ledger.rollups import group_rows, names_of, usage_rows
from shared.metering.hours import RunningLevels, Usage, WholeDays, WholeHours, days_of
from shared.metering.state import Session
from shared.metering.usage import bill_of, kind_of
from shared.models.scope import DayRange, Scope
from shared.models.usage.rollups import DIMENSIONS, Dimension, GroupKey, GroupUsage, RollupKey

NO_USAGE = Usage(0, 0)
NO_GROUP = GroupUsage(NO_USAGE, 0)


class DaySums:
    """The rollups of sessions for one UTC day."""

    def __init__(self) -> None:
        self.hours: dict[RollupKey, Usage] = {}
        self.groups: dict[GroupKey, GroupUsage] = {}

    def by_kind(self) -> dict[str, Usage]:
        """Return the sums of the whole day."""
        kinds: dict[str, Usage] = {}
        for key, usage in self.hours.items():
            kinds[key.kind] = Usage(*map(add, kinds.get(key.kind, NO_USAGE), usage))
        return kinds

    def names(self) -> dict[str, int]:
        """Return how many rooms and identities had a visit."""
        counts = dict.fromkeys(DIMENSIONS, 0)
        for key, group in self.groups.items():
            counts[key.dimension] += group.visits > 0
        return {dimension: count for dimension, count in counts.items() if count}


async def sums_by_day(conn: Connection, scope: Scope, span: DayRange | None) -> AsyncIterator[tuple[int, DaySums]]:
    """Yield (day, its sums) for each UTC day with usage, ascending.

    Sessions are read in the order of their starts, so a day is complete once a session starts later. Only the days of sessions
    that are not complete yet are in memory.
    """
    days: defaultdict[int, DaySums] = defaultdict(DaySums)
    stays = _Stays(scope)
    async for row in queries.ended_sessions(conn, scope, span):
        bill = bill_of(row.state, row.room)
        usage = bill.usage
        if not usage:
            continue
        today = floor_to(min(usage), DAY_MS)
        for day in sorted(day for day in days if day < today):
            yield day, stays.added(day, days.pop(day))
        parts: Sequence[tuple[int, Usage]] = ()
        if bill.whole:
            parts, whole_days = days_of(bill.whole)
            stays.add(row.state, bill.whole, whole_days)
            for day in _days_in(bill.whole, span):
                days[day]  # creates the entry, so that the day is yielded with its whole hours added
        for key, amounts in usage_rows(row.state, usage):
            hours = days[floor_to(key.hour, DAY_MS)].hours
            hours[key] = Usage(*map(add, hours[key], amounts)) if key in hours else amounts
        for group, (amounts, visits) in group_rows(row.state, usage, parts):
            groups = days[group.day].groups
            known, seen = groups.get(group, NO_GROUP)
            groups[group] = GroupUsage(Usage(*map(add, known, amounts)), seen + visits)
    for day in sorted(days):
        yield day, stays.added(day, days.pop(day))


def _days_in(whole: Sequence[WholeHours], span: DayRange | None) -> Iterator[int]:
    """Yield the days of whole hours within the span, so that an audit of one day does not read a year."""
    for from_ms, to_ms, _ in whole:
        first_ms = from_ms if span is None else max(from_ms, span.from_ms)
        last_ms = to_ms if span is None else min(to_ms, span.to_ms)
        yield from range(floor_to(first_ms, DAY_MS), last_ms, DAY_MS)


class _Stays:
    """Adds the whole hours and days of long sessions, day by day."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._hours: RunningLevels[str] = RunningLevels()
        self._names: RunningLevels[tuple[Dimension, str]] = RunningLevels()

    def add(self, session: Session, whole: Sequence[WholeHours], days: Sequence[WholeDays]) -> None:
        for from_ms, to_ms, usage in whole:
            self._hours.add(kind_of(session), from_ms, to_ms, usage)
        for from_ms, to_ms, usage in days:
            for name in names_of(session):
                self._names.add(name, from_ms, to_ms, (*usage, 1))

    def added(self, day_ms: int, sums: DaySums) -> DaySums:
        """Return a day's sums including its whole hours and days. Call it with ascending days."""
        for hour_ms in range(day_ms, day_ms + DAY_MS, HOUR_MS):
            for kind, amounts in self._hours.at(hour_ms).items():
                key = RollupKey(*self._scope, hour_ms, kind)
                sums.hours[key] = Usage(*map(add, sums.hours.get(key, NO_USAGE), amounts))
        for (dimension, name), (*amounts, visits) in self._names.at(day_ms).items():
            group = GroupKey(*self._scope, dimension, day_ms, name)
            known, seen = sums.groups.get(group, NO_GROUP)
            sums.groups[group] = GroupUsage(Usage(*map(add, known, amounts)), seen + visits)
        return sums
