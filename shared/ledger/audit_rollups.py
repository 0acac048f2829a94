"""Audit the rollups: recompute hours, days, groups, media and peaks from the states and compare."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from operator import add
from typing import NamedTuple

from shared.infra.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, floor_to, rfc3339
from shared.infra.postgres.pool import Connection
from shared.ledger.day_sums import NO_GROUP, NO_USAGE, DaySums, sums_by_day
from shared.ledger.difference import Difference, Found, Table, differing
from shared.ledger.proof import Checked
from shared.ledger.queries import audit as queries
from shared.ledger.queries import audit_rollups
from shared.ledger.rollups import RunSums
from shared.metering.peak import EMPTY, Stretch, combine
from shared.metering.run_usage import RunUsage
from shared.models.scope import AuditScope, DayRange, Scope
from shared.models.usage.audit import StoredStretch
from shared.models.usage.rollups import DIMENSIONS, GroupKey, GroupUsage, MediaKey

NO_RUNS = RunUsage(0, 0, 0)


async def audit_usage(conn: Connection, scope: Scope, span: DayRange | None, checked: Checked) -> AsyncIterator[Found]:
    """Compare usage_hour, usage_day, usage_group and usage_group_count with the sessions."""
    stored_days = await audit_rollups.days_of_rollups(conn, scope, span)
    async for day, sums in sums_by_day(conn, scope, span):
        if span is not None and not span.from_ms <= day < span.to_ms:
            continue
        while stored_days and stored_days[0] < day:
            async for found in _audit_day(conn, scope, stored_days.pop(0), DaySums(), checked):
                yield found
        if stored_days and stored_days[0] == day:
            stored_days.pop(0)
        async for found in _audit_day(conn, scope, day, sums, checked):
            yield found
    for day in stored_days:
        async for found in _audit_day(conn, scope, day, DaySums(), checked):
            yield found


async def _audit_day(conn: Connection, scope: Scope, day: int, sums: DaySums, checked: Checked) -> AsyncIterator[Found]:
    stored = await audit_rollups.stored_hours(conn, scope, day)
    for key in sorted({*stored, *sums.hours}):
        checked.rollups += 1
        actual, expected = stored.get(key, NO_USAGE), sums.hours.get(key, NO_USAGE)
        if actual != expected:
            name = f"{rfc3339(key.hour)} {key.kind}"
            yield _found("usage_hour", scope, name, key.hour, actual._asdict(), expected._asdict())
    stored_kinds, kinds = await audit_rollups.stored_day(conn, scope, day), sums.by_kind()
    for kind in sorted({*stored_kinds, *kinds}):
        checked.rollups += 1
        actual, expected = stored_kinds.get(kind, NO_USAGE), kinds.get(kind, NO_USAGE)
        if actual != expected:
            yield _found("usage_day", scope, f"{rfc3339(day)} {kind}", day, actual._asdict(), expected._asdict())
    groups = sums.groups
    names = sums.names()
    async for group, actual_group in audit_rollups.stored_groups(conn, scope, day):
        checked.rollups += 1
        expected_group = groups.pop(group, NO_GROUP)
        if actual_group != expected_group:
            yield _group_found(scope, group, actual_group, expected_group)
    for group, expected_group in sorted(groups.items()):
        checked.rollups += 1
        if expected_group != NO_GROUP:
            yield _group_found(scope, group, NO_GROUP, expected_group)
    actual_names = {
        name: count for name, count in (await audit_rollups.stored_names(conn, scope, day)).items() if count
    }
    for dimension in DIMENSIONS:
        actual_count, expected_count = actual_names.get(dimension, 0), names.get(dimension, 0)
        checked.rollups += 1
        if actual_count != expected_count:
            key_name = f"{rfc3339(day)} {dimension}"
            yield _found("usage_group_count", scope, key_name, day, {"names": actual_count}, {"names": expected_count})


def _group_found(scope: Scope, key: GroupKey, actual: GroupUsage, expected: GroupUsage) -> Found:
    name = f"{rfc3339(key.day)} {key.dimension} {key.name}"
    actual_row, expected_row = ({**group.usage._asdict(), "visits": group.visits} for group in (actual, expected))
    return _found("usage_group", scope, name, key.day, actual_row, expected_row)


async def audit_media(conn: Connection, scope: Scope, span: DayRange | None, checked: Checked) -> AsyncIterator[Found]:
    """Compare media_hour with the egresses and runs of ingresses."""
    runs, sums = RunSums(), dict[MediaKey, RunUsage]()
    async for row in queries.runs(conn, AuditScope(*scope)):
        runs.add(row.state)
    for key, usage in runs.rows():
        if span is None or span.from_ms <= key.hour < span.to_ms:
            sums[key] = RunUsage(*map(add, sums.get(key, NO_RUNS), usage))
    stored = await audit_rollups.stored_media_hours(conn, scope, span)
    for key in sorted({*stored, *sums}):
        checked.rollups += 1
        actual, expected = stored.get(key, NO_RUNS), sums.get(key, NO_RUNS)
        if actual != expected:
            name = f"{rfc3339(key.hour)} {key.meter} {key.type}"
            yield _found("media_hour", scope, name, key.hour, actual._asdict(), expected._asdict())


async def audit_peaks(conn: Connection, scope: Scope, span: DayRange | None, checked: Checked) -> AsyncIterator[Found]:
    """Compare concurrency (minutes with their seconds, hours, days) with starts and ends of sessions."""
    levels = [_Level(conn, scope, length_ms, span) for length_ms in (MINUTE_MS, HOUR_MS, DAY_MS)]
    growing = [_Growing(length_ms) for length_ms in (SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS)]
    async for at_ms, change in audit_rollups.edges(conn, scope, span):
        for number, done in _grow(growing, at_ms, Stretch(change, change)):
            async for found in levels[number - 1].compare(done, checked):
                yield found
    for number, one in enumerate(growing):
        for done in one.finish():
            ended = [(number, done)] if number else []
            if number + 1 < len(growing):
                ended += _grow(growing[number + 1 :], done.start_ms, done.stretch, number + 1)
            for level, stretch in ended:
                async for found in levels[level - 1].compare(stretch, checked):
                    yield found
    for rest in levels:
        async for found in rest.compare(None, checked):
            yield found


class _Grown(NamedTuple):
    """A complete stretch, with the pieces that make it up, by their starts (unix ms)."""

    start_ms: int
    stretch: Stretch
    pieces: dict[int, Stretch]

    def rows(self) -> Iterator[tuple[int, int, int]]:
        for at_ms, piece in self.pieces.items():
            yield at_ms, *piece


class _Growing:
    """Combines ascending pieces into stretches of one length."""

    def __init__(self, length_ms: int) -> None:
        self._length_ms = length_ms
        self._start_ms = -1
        self._stretch = EMPTY
        self._pieces: dict[int, Stretch] = {}

    def add(self, at_ms: int, piece: Stretch) -> Iterator[_Grown]:
        """Add a piece. Yield the previous stretch if the piece lies after it."""
        start_ms = floor_to(at_ms, self._length_ms)
        if start_ms != self._start_ms:
            yield from self.finish()
            # A stretch that begins with a change has no instant at the level before it.
            self._start_ms, self._stretch = start_ms, piece if at_ms == start_ms else combine(EMPTY, piece)
        else:
            self._stretch = combine(self._stretch, piece)
        self._pieces[at_ms] = piece

    def finish(self) -> Iterator[_Grown]:
        if self._start_ms >= 0:
            yield _Grown(self._start_ms, self._stretch, self._pieces)
        self._start_ms, self._pieces = -1, {}


def _grow(levels: Sequence[_Growing], at_ms: int, piece: Stretch, number: int = 0) -> Iterator[tuple[int, _Grown]]:
    """Add a piece to the first level, and the stretches that this completes to the levels above.

    Yield complete stretches with the number of their level; the first level has ``number``. Seconds are not yielded.
    """
    for done in levels[0].add(at_ms, piece):
        if number:
            yield number, done
        if len(levels) > 1:
            yield from _grow(levels[1:], done.start_ms, done.stretch, number + 1)


class _Level:
    """Reads the stored stretches of one length in step with the correct ones."""

    def __init__(self, conn: Connection, scope: Scope, length_ms: int, span: DayRange | None) -> None:
        self._scope, self._length_ms = scope, length_ms
        self._rows = audit_rollups.stored_stretches(conn, scope, length_ms, span)
        self._next: StoredStretch | None = None
        self._started = False

    async def compare(self, expected: _Grown | None, checked: Checked) -> AsyncIterator[Found]:
        """Compare the stored stretches up to a correct one (None: to the end).

        A row of zeros counts like a missing row.
        """
        if not self._started:
            self._next, self._started = await anext(self._rows, None), True
        while self._next is not None and (expected is None or self._next.start_ms < expected.start_ms):
            if found := self._compare(checked, self._next, _Grown(self._next.start_ms, EMPTY, {})):
                yield found
            self._next = await anext(self._rows, None)
        if expected is None:
            return
        actual = StoredStretch(expected.start_ms, EMPTY, None)
        if self._next is not None and self._next.start_ms == expected.start_ms:
            actual = self._next
            self._next = await anext(self._rows, None)
        if found := self._compare(checked, actual, expected):
            yield found

    def _compare(self, checked: Checked, stored: StoredStretch, expected: _Grown) -> Found | None:
        checked.rollups += 1
        actual, wanted = stored.stretch._asdict(), expected.stretch._asdict()
        if stored.seconds is not None:
            actual["seconds"], wanted["seconds"] = _moving(stored.seconds), _moving(expected.rows())
        if actual == wanted:
            return None
        unit = {MINUTE_MS: "minute", HOUR_MS: "hour", DAY_MS: "day"}[self._length_ms]
        return _found("concurrency", self._scope, f"{rfc3339(stored.start_ms)} {unit}", stored.start_ms, actual, wanted)


def _moving(seconds: Iterable[tuple[int | None, int | None, int | None]]) -> list[tuple[object, ...]]:
    return [(at and rfc3339(at), *piece) for at, *piece in seconds if tuple(piece) != EMPTY]


def _found(
    table: Table, scope: Scope, key: str, at_ms: int, actual: Mapping[str, object], expected: Mapping[str, object]
) -> Found:
    difference = Difference(
        table=table, project_id=scope.project_id, mode=scope.mode, key=key, fields=differing(actual, expected)
    )
    return Found(difference, AuditScope(*scope), at_ms=at_ms)
