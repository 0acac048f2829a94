"""Compute the rollup rows to which a session, an egress or a run of an ingress adds, and the amounts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import add
from typing import NamedTuple, TypeVar

from shared.infra.clock import DAY_MS, HOUR_MS, floor_to
from shared.metering.hours import Key, Levels, Usage, WholeDays, WholeHours
from shared.metering.run_usage import RunUsage, run_bill_of
from shared.metering.state import MediaRun, Session
from shared.metering.usage import kind_of
from shared.models.scope import Scope
from shared.models.usage.rollups import Dimension, GroupKey, GroupUsage, MediaKey, RollupKey

# Rows that one statement writes at most.
ROWS_AT_ONCE = 10_000


def usage_rows(session: Session, usage: Mapping[int, Usage]) -> list[tuple[RollupKey, Usage]]:
    """Return what a session's usage adds to the rollup, by hour."""
    if session.project_id is None or session.mode is None:
        return []
    kind = kind_of(session)
    return [(RollupKey(session.project_id, session.mode, hour, kind), amounts) for hour, amounts in usage.items()]


def group_rows(
    session: Session, usage: Mapping[int, Usage], parts: Iterable[tuple[int, Usage]] = ()
) -> list[tuple[GroupKey, GroupUsage]]:
    """Return what a session's usage adds to the rollups of its room and of its identity, by day.

    ``parts``: the incomplete days that ``days_of`` finds in the whole hours of a long session.
    """
    if session.project_id is None or session.mode is None:
        return []
    days: dict[int, Usage] = {}
    for hour_ms, amounts in usage.items():
        day_ms = floor_to(hour_ms, DAY_MS)
        days[day_ms] = Usage(*map(add, days[day_ms], amounts)) if day_ms in days else amounts
    for day_ms, amounts in parts:
        days[day_ms] = Usage(*map(add, days[day_ms], amounts)) if day_ms in days else amounts
    return [
        (GroupKey(session.project_id, session.mode, dimension, day_ms, name), GroupUsage(amounts, 1))
        for dimension, name in names_of(session)
        for day_ms, amounts in days.items()
    ]


def names_of(session: Session) -> tuple[tuple[Dimension, str], ...]:
    """Return the names by which a session is grouped: its room and its identity."""
    return ("room", session.room or ""), ("identity", session.identity or "")


class HoursOf(NamedTuple):
    """The key of hourly rollup rows without the hour: project, mode and kind."""

    project_id: str
    mode: str
    kind: str


class DaysOf(NamedTuple):
    """The key of daily rollup rows without the day: project, mode and a room or an identity."""

    project_id: str
    mode: str
    dimension: Dimension
    name: str


class LongStays:
    """The whole hours and days of long sessions, which ``usage_rows`` and ``group_rows`` leave out."""

    def __init__(self) -> None:
        self._hours: Levels[HoursOf] = Levels()
        self._days: Levels[DaysOf] = Levels()

    def add(self, session: Session, whole: Sequence[WholeHours], days: Sequence[WholeDays], sign: int) -> None:
        """Add a session or, with ``sign`` -1, subtract it. ``days``: from ``days_of``."""
        if session.project_id is None or session.mode is None:
            return
        owner = session.project_id, session.mode
        for from_ms, to_ms, usage in whole:
            self._hours.add(HoursOf(*owner, kind_of(session)), from_ms, to_ms, usage, sign)
        for from_ms, to_ms, usage in days:
            for dimension, name in names_of(session):
                self._days.add(DaysOf(*owner, dimension, name), from_ms, to_ms, (*usage, 1), sign)

    def scopes(self) -> set[Scope]:
        return {Scope(key.project_id, key.mode) for key in self._hours}

    def hour_rows(self) -> Iterator[tuple[RollupKey, Usage]]:
        for (project_id, mode, kind), hour_ms, amounts in self._hours.rows(HOUR_MS):
            yield RollupKey(project_id, mode, hour_ms, kind), Usage(*amounts)

    def group_rows(self) -> Iterator[tuple[GroupKey, GroupUsage]]:
        for (project_id, mode, dimension, name), day_ms, (*amounts, visits) in self._days.rows(DAY_MS):
            yield GroupKey(project_id, mode, dimension, day_ms, name), GroupUsage(Usage(*amounts), visits)


class RunsOf(NamedTuple):
    """The key of hourly media rollup rows without the hour: project, mode, meter and type."""

    project_id: str
    mode: str
    meter: str
    type: str


class RunSums:
    """Sums what runs add to their rollup, by hour. Adding a long run costs as little as a short one."""

    def __init__(self) -> None:
        self._hours: defaultdict[MediaKey, list[int]] = defaultdict(lambda: [0] * len(RunUsage._fields))
        self._levels: Levels[RunsOf] = Levels()

    def add(self, run: MediaRun, sign: int = 1) -> None:
        if run.project_id is None or run.mode is None:
            return
        kind = run.type or "other"
        bill = run_bill_of(run)
        for hour_ms, usage in bill.usage.items():
            sums = self._hours[MediaKey(run.project_id, run.mode, hour_ms, run.meter, kind)]
            for index, amount in enumerate(usage):
                sums[index] += sign * amount
        if bill.whole_from_ms < bill.whole_to_ms:
            key = RunsOf(run.project_id, run.mode, run.meter, kind)
            self._levels.add(key, bill.whole_from_ms, bill.whole_to_ms, bill.whole, sign)

    def __bool__(self) -> bool:
        return bool(self._levels) or any(any(amounts) for amounts in self._hours.values())

    def scopes(self) -> set[Scope]:
        scopes = {Scope(key.project_id, key.mode) for key, amounts in self._hours.items() if any(amounts)}
        return scopes | {Scope(key.project_id, key.mode) for key in self._levels}

    def rows(self) -> Iterator[tuple[MediaKey, RunUsage]]:
        """Yield the rows of the rollup. An hour may come twice; add its rows."""
        for key, amounts in self._hours.items():
            if any(amounts):
                yield key, RunUsage(*amounts)
        for (project_id, mode, meter, kind), hour_ms, level in self._levels.rows(HOUR_MS):
            yield MediaKey(project_id, mode, hour_ms, meter, kind), RunUsage(*level)


Row = TypeVar("Row")


def pieces_of(rows: Iterator[tuple[Key, Row]], size: int = ROWS_AT_ONCE) -> Iterator[dict[Key, Row]]:
    """Yield rows in pieces of at most ``size``, one for each statement. A piece has no key twice."""
    while piece := list(islice(rows, size)):
        unique: dict[Key, Row] = {}
        for key, row in piece:
            if key in unique:
                yield unique
                unique = {}
            unique[key] = row
        yield unique
