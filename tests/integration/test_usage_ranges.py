"""SQL sums over a range equal the pure meter's results for each session.

This holds for open, stale, grouped and cut sessions.
"""

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from operator import add

import pytest

from services.cli.projects import create_project
from shared.infra.clock import DAY_MS, HOUR_MS, floor_to
from shared.infra.postgres.pool import Connection, Pool, create_pool, remember_times
from shared.infra.settings import Settings
from shared.ledger.bill import fold_runs, fold_sessions
from shared.metering.peak import EMPTY, daily_peaks
from shared.metering.run_usage import usage_of_run
from shared.metering.state import MediaRun, Session, Track
from shared.metering.usage import Interval, counted_until, interval_of, usage_of
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock
from shared.models.usage.rollups import DIMENSIONS, Dimension
from shared.usage import ranking
from shared.usage.queries import groups, usage_ranges
from tests.unit import brute_force_meter as brute

MIDNIGHT = 20_600 * DAY_MS
NOW = MIDNIGHT + 3 * DAY_MS + 15 * HOUR_MS + 1234
KINDS = (None, "AGENT", "SIP", "EGRESS")


def some_session(rng: random.Random, number: int, project_id: str) -> Session:
    started = MIDNIGHT + rng.randrange(3 * DAY_MS + 14 * HOUR_MS)
    length = rng.choice([0, 1, 500_000, 3 * HOUR_MS, 30 * HOUR_MS])
    tracks = {}
    for track in range(rng.randrange(3)):
        on = started + rng.randrange(-1000, 2 * HOUR_MS)
        off = rng.choice([None, on + rng.randrange(HOUR_MS)])
        source = rng.choice(["CAMERA", "SCREEN_SHARE"])
        tracks[f"TR_{track}"] = Track(rng.choice(["VIDEO", "VIDEO", "AUDIO"]), source, on, off)
    return Session(
        sid=f"PA_{project_id}_{number}",
        project_id=project_id,
        mode="live",
        room=f"room-{rng.randrange(6)}",
        room_sid="RM",
        identity=rng.choice([None, "ada", "Bob", "ünal", "zoe"]),
        kind=rng.choice(KINDS),
        joined_ms=started,
        left_ms=rng.choice([None, started + length, started + length]),
        tracks=tracks,
    )


def some_run(rng: random.Random, number: int, project_id: str) -> MediaRun:
    started = MIDNIGHT + rng.randrange(3 * DAY_MS)
    meter = rng.choice(["egress", "ingress"])
    return MediaRun(
        id=f"EG_{project_id}_{number}",
        meter=meter,  # type: ignore[arg-type]  # one of two literals
        type=rng.choice([None, "web", "track"]),
        project_id=project_id,
        mode="live",
        started_ms=started,
        ended_ms=rng.choice([None, started + rng.randrange(20 * HOUR_MS)]),
    )


class Crowd:
    """Stored sessions and runs of one scope, and what each of them counts."""

    def __init__(self, rng: random.Random, project_id: str, asked: UsageClock) -> None:
        self.scope, self.asked, self._rng = Scope(project_id, "live"), asked, rng
        self.sessions = [some_session(rng, number, project_id) for number in range(60)]
        self.runs = [some_run(rng, number, project_id) for number in range(12)]
        self.confirmed = {s.sid: s.joined_ms + rng.randrange(DAY_MS) for s in self.sessions if s.joined_ms}

    async def store(self, conn: Connection) -> None:
        async with conn.transaction():
            for at in range(0, len(self.sessions), 7):
                await fold_sessions(conn, self.sessions[at : at + 7], [], NOW)
            await fold_sessions(conn, [], [], NOW, await fold_runs(conn, self.runs))
            for sid, confirmed_ms in self.confirmed.items():
                await conn.execute("UPDATE session SET confirmed_ms = $2 WHERE sid = $1", sid, confirmed_ms)

    def metered(self) -> list[tuple[Session, Interval, int]]:
        found = []
        for session in self.sessions:
            interval = interval_of(session, None) if session.kind != "EGRESS" else None
            if interval is not None:
                until = counted_until(session, self.confirmed[session.sid], *self.asked)
                found.append((session, interval, max(until, interval.start_ms)))
        return found


@pytest.fixture(scope="module")
async def pool(module_settings: Settings) -> AsyncIterator[Pool]:
    async with create_pool(module_settings.database, "tests", init=remember_times) as opened:
        yield opened


@pytest.fixture(scope="module", params=range(6))
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# The tests only read, so they share each crowd.
@pytest.fixture(scope="module", params=[None, 5 * HOUR_MS], ids=["never stale", "stale after five hours"])
async def crowd(request: pytest.FixtureRequest, seed: int, pool: Pool, module_settings: Settings) -> Crowd:
    project = await create_project(module_settings.database, "acme")
    found = Crowd(random.Random(seed), project.project_id, UsageClock(NOW, request.param))
    async with pool.acquire() as conn:
        await found.store(conn)
    return found


def spans(unit_ms: int) -> list[tuple[int, int]]:
    cuts = [MIDNIGHT - DAY_MS, MIDNIGHT, MIDNIGHT + DAY_MS, MIDNIGHT + 4 * DAY_MS]
    if unit_ms == HOUR_MS:
        cuts += [MIDNIGHT + 30 * HOUR_MS, MIDNIGHT + 31 * HOUR_MS]
    return [(a, b) for a in cuts for b in cuts if a < b]


@pytest.mark.parametrize("unit_ms", [HOUR_MS, DAY_MS])
async def test_sums_and_peaks_of_a_range_equal_those_of_the_sessions(pool: Pool, crowd: Crowd, unit_ms: int) -> None:
    wanted: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * 5)
    for session, interval, until in crowd.metered():
        for hour, usage in usage_of(session, None, until).items():
            key = (floor_to(hour, unit_ms), session.kind or "STANDARD")
            wanted[key] = list(map(add, wanted[key], usage))
        assert interval.end_ms is not None or until >= interval.start_ms
    connected = [(i.start_ms, NOW * 2 if i.end_ms is None else i.end_ms) for _, i, _ in crowd.metered()]
    async with pool.acquire() as conn:
        for from_ms, to_ms in spans(unit_ms):
            read = await usage_ranges.read_range(conn, crowd.scope, from_ms, to_ms, unit_ms, crowd.asked)
            found = {
                (start, kind): [*amounts[:4], amounts.sessions]
                for start, kinds in read.usage.items()
                for kind, amounts in kinds.items()
            }
            assert found == {key: amounts for key, amounts in wanted.items() if from_ms <= key[0] < to_ms}
            open_ms = sum(amounts.provisional_ms for kinds in read.usage.values() for amounts in kinds.values())
            assert open_ms == open_between(crowd, from_ms, to_ms)
            starts = range(from_ms, to_ms, unit_ms)
            assert daily_peaks(read.carried_in, [read.stretches.get(start, EMPTY) for start in starts]) == [
                brute.peak(connected, start, start + unit_ms) for start in starts
            ]


def open_between(crowd: Crowd, from_ms: int, to_ms: int) -> int:
    """Return the milliseconds of sessions without an end in the range."""
    return sum(
        usage.participant_ms
        for session, interval, until in crowd.metered()
        if interval.end_ms is None
        for hour, usage in usage_of(session, None, until).items()
        if from_ms <= hour < to_ms
    )


async def test_egress_and_ingress_of_a_range_equal_those_of_the_runs(pool: Pool, crowd: Crowd) -> None:
    wanted: defaultdict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0] * 3)
    stale_ms = crowd.asked.stale_ms
    for run in crowd.runs:
        assert run.started_ms is not None
        until = NOW if stale_ms is None or NOW - run.started_ms <= stale_ms else run.started_ms
        for hour, usage in usage_of_run(run, until).items():
            key = (floor_to(hour, DAY_MS), run.meter, run.type or "other")
            provisional = usage.active_ms if run.ended_ms is None else 0
            wanted[key] = list(map(add, wanted[key], (usage.active_ms, provisional, usage.runs)))
    async with pool.acquire() as conn:
        for from_ms, to_ms in spans(DAY_MS):
            found = await usage_ranges.read_range(conn, crowd.scope, from_ms, to_ms, DAY_MS, crowd.asked)
            assert {
                (start, *meter): [run.active_ms, run.provisional_ms, run.runs]
                for start, runs in found.media.items()
                for meter, run in runs.items()
            } == {key: amounts for key, amounts in wanted.items() if from_ms <= key[0] < to_ms}


def of_groups(crowd: Crowd, dimension: Dimension, from_ms: int, to_ms: int) -> dict[str, list[int]]:
    """Return (participant, video, screen share, provisional ms, sessions) by name."""
    wanted: dict[str, list[int]] = {}
    for session, interval, until in crowd.metered():
        for hour, usage in usage_of(session, None, until).items():
            if from_ms <= hour < to_ms:
                provisional = usage.participant_ms if interval.end_ms is None else 0
                amounts = (*usage[:3], provisional, usage.sessions)
                name = getattr(session, dimension) or ""
                wanted[name] = list(map(add, wanted.get(name, [0] * 5), amounts))
    return wanted


@pytest.mark.parametrize("dimension", ["room", "identity"])
async def test_pages_of_groups_equal_the_sums_of_their_sessions(pool: Pool, crowd: Crowd, dimension: Dimension) -> None:
    async with pool.acquire() as conn:
        for days in spans(DAY_MS):
            wanted = of_groups(crowd, dimension, *days)
            found: dict[str, list[int]] = {}
            first, more = "", True
            while more:
                page = await groups.page_of_groups(conn, crowd.scope, dimension, days, crowd.asked, first, 3)
                more = len(page) == 3
                for row in page[:2] if more else page:
                    assert row.name not in found
                    found[row.name] = [*row[1:4], row.provisional_ms, row.sessions]
                first = page[-1].name if page else ""
            assert found == wanted
            assert list(found) == sorted(found)
            top = await ranking.top_groups(conn, crowd.scope, dimension, days, crowd.asked, 2)
            assert top is not None
            assert top.names == len(wanted)
            ranked = sorted(wanted.items(), key=lambda item: (-item[1][0], item[0]))
            assert [row.name for row in top.groups] == [name for name, _ in ranked[:2]]


async def test_numbers_of_distinct_names_of_each_day_are_exact(pool: Pool, crowd: Crowd) -> None:
    from_ms, to_ms = MIDNIGHT, MIDNIGHT + 4 * DAY_MS
    wanted = {
        day: tuple(len(of_groups(crowd, dimension, day, day + DAY_MS)) for dimension in DIMENSIONS)
        for day in range(from_ms, to_ms, DAY_MS)
    }
    async with pool.acquire() as conn:
        read = await usage_ranges.read_range(conn, crowd.scope, from_ms, to_ms, DAY_MS, crowd.asked, names=True)
    assert {day: read.names.get(day, (0, 0)) for day in wanted} == wanted
