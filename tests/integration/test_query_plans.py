"""Query plans must not depend on statistics.

A fresh table has none, and the fold's queries ran for seconds on it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.api.usage.service import read_span, series_of
from shared.infra.clock import DAY_MS, MINUTE_MS
from shared.infra.postgres.pool import Connection, Pool
from shared.ledger.queries import usage as usage_queries
from shared.listings.queries.event_pages import page_of_events
from shared.listings.queries.session_pages import page_of_sessions
from shared.metering.span import Span
from shared.models.projects import CreatedProject
from shared.models.scope import Scope
from shared.models.usage.listings import EventFilter, SessionFilter
from shared.models.usage.ranges import UsageClock
from shared.usage.queries.groups import page_of_groups


async def test_peaks_read_starts_and_ends_from_their_own_indexes(pool: Pool, project: CreatedProject) -> None:
    """The planner must not choose another index that begins with project and mode.

    It rated all of them equal, but the wrong one scans the whole history.
    """
    async with pool.acquire() as conn:
        await conn.execute(
            "INSERT INTO session (sid, project_id, mode, room, identity, kind, started_ms, ended_ms, state)"
            " SELECT 'PA_' || n, $1, 'live', 'r', 'i' || n, 'STANDARD', n * 1000, n * 1000 + 500, ''"
            " FROM generate_series(1, 5000) AS n",
            project.project_id,
        )
        minutes = usage_queries.minutes_statement()
        arguments = ([project.project_id] * 50, ["live"] * 50, [n * MINUTE_MS for n in range(50)], [7] * 50, False)
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {minutes}", *arguments))
    assert "Index Scan using session_by_start on session b" in plan
    assert "Index Scan using session_ended on session e" in plan
    for other in ("Seq Scan on session", "session_in_room", "session_of_identity", "Hash Join", "Merge Join"):
        assert other not in plan


# $1 project, $2 days, $3 the last midnight.
_HISTORY = (
    "INSERT INTO session (sid, project_id, mode, room, identity, kind, started_ms, ended_ms, ended_by, state)"
    " SELECT 'PA_' || n, $1, 'live', 'r' || n % 500, 'i' || n, 'STANDARD', at, at + 500, 'left', '{\"sid\":\"PA\"}'::bytea"
    " FROM generate_series(1, $2::int * 20) AS n, LATERAL (SELECT $3::bigint - n * 86400000::bigint / 20 AS at) AS a",
    "INSERT INTO usage_day SELECT $1, 'live', $3::bigint - n * 86400000::bigint, kind, 1, 0, 0, 0, 1"
    " FROM generate_series(0, $2::int - 1) AS n, unnest(ARRAY['STANDARD', 'AGENT']) AS kind",
    "INSERT INTO concurrency SELECT $1, 'live', 86400000, $3::bigint - n * 86400000::bigint, 0, 1"
    " FROM generate_series(0, $2::int - 1) AS n",
    "INSERT INTO usage_group SELECT $1, 'live', 'room', $3::bigint - n * 86400000::bigint, 'r' || m, 1, 0, 0, 0, 1, 1"
    " FROM generate_series(0, $2::int / 10) AS n, generate_series(1, 300) AS m",
    "INSERT INTO event (created_at, id, received_at, name, project_id, mode, body)"
    " SELECT to_timestamp($3::bigint / 1000 - n), 'EV_' || n, now(), 'x', $1, 'live', '{}'"
    " FROM generate_series(1, $2::int * 10) AS n",
)


@asynccontextmanager
async def reading_at_most(conn: Connection, rows: int) -> AsyncIterator[None]:
    """Open a transaction that may read at most ``rows`` rows from Relay's tables and indexes."""
    count = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables"
    async with conn.transaction():
        before = await conn.fetchval(count) or 0
        yield
        assert (await conn.fetchval(count) or 0) - before <= rows


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "analyzed"])
async def test_rows_read_depend_on_the_answer_and_not_on_the_history(
    pool: Pool, project: CreatedProject, analyzed: bool
) -> None:
    """Read thirty days out of 1500, with and without statistics.

    A plan that scans the history reads tens of thousands of rows.
    """
    scope, days = Scope(project.project_id, "live"), 1_500
    today = 20_700 * DAY_MS
    asked = UsageClock(today + DAY_MS, None)
    async with pool.acquire() as conn:
        for statement in _HISTORY:
            await conn.execute(statement, project.project_id, days, today)
        if analyzed:
            await conn.execute("ANALYZE")
        span = Span(today - 29 * DAY_MS, today + DAY_MS, "day")
        async with reading_at_most(conn, 200):
            assert series_of(span, await read_span(conn, scope, span, asked)).totals.sessions == 60
        for wanted, rows in ((SessionFilter(), 50), (SessionFilter(room="r7"), 50), (SessionFilter(identity="i7"), 1)):
            async with reading_at_most(conn, 130):
                assert len((await page_of_sessions(conn, scope, wanted, None, 50)).rows) == rows
        async with reading_at_most(conn, 60):
            assert len((await page_of_events(conn, scope, EventFilter(), None, 50)).rows) == 50
        async with reading_at_most(conn, 100):
            week = (today - 6 * DAY_MS, today + DAY_MS)
            assert len(await page_of_groups(conn, scope, "room", week, asked, "", 10)) == 10
