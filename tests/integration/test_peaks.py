"""Stored peaks: minutes from their seconds, hours from minutes, days from hours."""

import random

import pytest

from shared.infra.clock import DAY_MS, HOUR_MS, MINUTE_MS
from shared.infra.postgres.pool import Connection, Pool
from shared.ledger.audit_rollups import audit_peaks
from shared.ledger.bill import fold_sessions
from shared.ledger.proof import Checked
from shared.ledger.queries import usage as usage_queries
from shared.metering.peak import Stretch
from shared.metering.state import Session
from shared.models.projects import CreatedProject
from shared.models.scope import Scope
from tests.unit import brute_force_meter as brute

MIDNIGHT = 20_600 * DAY_MS
# Around a midnight, many in the same millisecond and many on the full second or minute.
INSTANTS = [MIDNIGHT + offset for offset in (*range(-3000, 3000, 250), *range(-61_000, 62_000, 1000), 59_999, -1, 1)]
NOW = MIDNIGHT + DAY_MS


def some_sessions(rng: random.Random, scope: Scope, count: int) -> list[Session]:
    found = []
    for number in range(count):
        start, end = sorted(rng.choices(INSTANTS, k=2))
        found.append(
            Session(
                sid=f"PA_{number}",
                project_id=scope.project_id,
                mode="live",
                joined_ms=start,
                left_ms=rng.choice([end, end, None]),
            )
        )
    return found


def expected_stretch(sessions: list[Session], length_ms: int, start_ms: int) -> Stretch:
    intervals = [(s.joined_ms or 0, s.left_ms if s.left_ms is not None else NOW * 2) for s in sessions]
    before = brute.level_at(intervals, start_ms - 1)
    end = brute.level_at(intervals, start_ms + length_ms - 1)
    return Stretch(end - before, brute.peak(intervals, start_ms, start_ms + length_ms) - before)


async def check(conn: Connection, scope: Scope, sessions: list[Session]) -> None:
    rows = await conn.fetch("SELECT length_ms, start_ms, change, peak FROM concurrency WHERE project_id = $1", scope[0])
    stored = {(row[0], row[1]): Stretch(row[2], row[3]) for row in rows}
    edges = {edge for one in sessions for edge in (one.joined_ms, one.left_ms) if edge is not None}
    assert {at - at % MINUTE_MS for at in edges} <= {start for length, start in stored if length == MINUTE_MS}
    for (length_ms, start_ms), stretch in stored.items():
        assert stretch == expected_stretch(sessions, length_ms, start_ms), (length_ms, start_ms - MIDNIGHT)
    async with conn.transaction():
        assert [found async for found in audit_peaks(conn, scope, None, Checked())] == []


@pytest.mark.parametrize("seed", range(8))
async def test_peaks_are_correct_after_every_batch(pool: Pool, project: CreatedProject, seed: int) -> None:
    """Sessions arrive in batches, and some of them end in a later batch.

    Sometimes an earlier release writes a minute in between.
    """
    rng, scope = random.Random(seed), Scope(project.project_id, "live")
    wanted = some_sessions(rng, scope, 60)
    known: dict[str, Session] = {}
    async with pool.acquire() as conn:
        while known != {one.sid: one for one in wanted}:
            batch = rng.sample(wanted, 7)
            news = [
                Session(sid=one.sid, project_id=one.project_id, mode="live", joined_ms=one.joined_ms)
                if one.sid not in known and rng.random() < 0.5
                else one
                for one in batch
            ]
            async with conn.transaction():
                await fold_sessions(conn, news, [], NOW)
            # Known facts only grow: a known end stays.
            known |= {one.sid: one for one in news if one.left_ms is not None or one.sid not in known}
            if rng.random() < 0.3:
                await conn.execute(
                    "UPDATE concurrency SET peak = peak WHERE length_ms = 60000 AND start_ms = $1", MIDNIGHT
                )
            await check(conn, scope, list(known.values()))


async def test_a_minute_written_by_an_earlier_release_loses_its_seconds(pool: Pool, project: CreatedProject) -> None:
    """An earlier release does not maintain seconds, so they no longer match the stored sessions."""
    scope = Scope(project.project_id, "live")
    first, second = (
        Session(sid=sid, project_id=scope[0], mode="live", joined_ms=MIDNIGHT + at, left_ms=MIDNIGHT + 50_000)
        for sid, at in (("PA_1", 1000), ("PA_2", 2000))
    )
    async with pool.acquire() as conn:
        async with conn.transaction():
            await fold_sessions(conn, [first], [], NOW)
        assert await conn.fetchval("SELECT seconds FROM concurrency WHERE length_ms = 60000") == [1, 50]
        before = await conn.fetchrow(
            "SELECT seconds, second_changes, second_peaks FROM concurrency WHERE length_ms = 60000"
        )
        async with conn.transaction():
            await fold_sessions(conn, [second], [], NOW)
        # As if this fold had not written seconds.
        assert before is not None
        await conn.execute(
            "UPDATE concurrency SET seconds = $1, second_changes = $2, second_peaks = $3 WHERE length_ms = 60000",
            *before,
        )
        assert await conn.fetchval("SELECT seconds FROM concurrency WHERE length_ms = 60000") is None
        async with conn.transaction():
            await usage_queries.recompute_peaks(conn, [(scope, MIDNIGHT + 50_000)])
        row = await conn.fetchrow(
            "SELECT seconds, second_changes, second_peaks FROM concurrency WHERE length_ms = 60000"
        )
        assert row is not None
        assert tuple(row) == ([1, 2, 50], [1, 1, -2], [1, 1, -2])
        await check(conn, scope, [first, second])


async def test_a_busy_minute_is_not_reread_with_every_batch(pool: Pool, project: CreatedProject) -> None:
    """The cost of a batch must not grow with the number of joins and leaves in the same minute."""
    scope = Scope(project.project_id, "live")
    crowd = [
        Session(
            sid=f"PA_{n}", project_id=scope[0], mode="live", joined_ms=MIDNIGHT + n * 10, left_ms=MIDNIGHT + n * 10 + 5
        )
        for n in range(5000)
    ]
    late = Session(
        sid="PA_late", project_id=scope[0], mode="live", joined_ms=MIDNIGHT + 30_000, left_ms=MIDNIGHT + HOUR_MS
    )
    read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables"
    async with pool.acquire() as conn:
        async with conn.transaction():
            await fold_sessions(conn, crowd, [], NOW)
        async with conn.transaction():
            before = await conn.fetchval(read)
            await fold_sessions(conn, [late], [], NOW)
            # The 200 starts and ends of that second, and some rows of rollups.
            assert await conn.fetchval(read) - before < 300
        assert await conn.fetchval("SELECT peak FROM concurrency WHERE length_ms = 86400000") == 2
