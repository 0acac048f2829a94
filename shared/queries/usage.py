"""Rollups by hour and the peaks. A *scope* is a (project id, mode) pair."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from shared.clock import DAY_MS, HOUR_MS, MINUTE_MS
from shared.metering.usage import Usage
from shared.postgres import Connection


class Scope(NamedTuple):
    project_id: str
    mode: str


class RollupKey(NamedTuple):
    """One row of the rollup; ``hour`` is unix ms of the UTC hour's start."""

    project_id: str
    mode: str
    hour: int
    kind: str


async def lock_scopes(conn: Connection, scopes: Iterable[Scope]) -> None:
    """Waits until no other transaction changes these scopes' rollups, always in the same order, until this one ends. Peaks
    need it: a minute is recomputed from all its sessions, so two transactions must not each see half of them."""
    ordered = sorted(set(scopes))
    await conn.execute(
        "SELECT pg_advisory_xact_lock(hashtext('relay_usage_' || current_schema()), key) FROM"
        " (SELECT DISTINCT hashtext(project_id || mode) AS key FROM unnest($1::text[], $2::text[]) AS t (project_id, mode)"
        " ORDER BY key) AS keys",
        [scope.project_id for scope in ordered],
        [scope.mode for scope in ordered],
    )


_ADDED = (
    "DO UPDATE SET participant_ms = u.participant_ms + excluded.participant_ms, video_ms = u.video_ms + excluded.video_ms,"
    " screen_share_ms = u.screen_share_ms + excluded.screen_share_ms, inferred_ms = u.inferred_ms + excluded.inferred_ms,"
    " sessions = u.sessions + excluded.sessions"
)


async def add_usage(conn: Connection, changes: Mapping[RollupKey, Usage]) -> None:
    """Adds differences (which may be negative) to the rollups, by hour and by day. The scopes must be locked."""
    keys = sorted(changes)
    await conn.execute(
        "WITH n AS (SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],"
        " $7::bigint[], $8::bigint[], $9::bigint[]) AS n (project_id, mode, hour, kind, participant_ms, video_ms,"
        " screen_share_ms, inferred_ms, sessions)), by_day AS (INSERT INTO usage_day AS u (project_id, mode, day, kind,"
        " participant_ms, video_ms, screen_share_ms, inferred_ms, sessions) SELECT project_id, mode, hour - hour % 86400000,"
        " kind, sum(participant_ms), sum(video_ms), sum(screen_share_ms), sum(inferred_ms), sum(sessions) FROM n"
        f" GROUP BY 1, 2, 3, 4 ON CONFLICT (project_id, mode, day, kind) {_ADDED})"
        " INSERT INTO usage_hour AS u (project_id, mode, hour, kind, participant_ms, video_ms, screen_share_ms, inferred_ms,"
        f" sessions) SELECT * FROM n ON CONFLICT (project_id, mode, hour, kind) {_ADDED}",
        [key.project_id for key in keys],
        [key.mode for key in keys],
        [key.hour for key in keys],
        [key.kind for key in keys],
        [changes[key].participant_ms for key in keys],
        [changes[key].video_ms for key in keys],
        [changes[key].screen_share_ms for key in keys],
        [changes[key].inferred_ms for key in keys],
        [changes[key].sessions for key in keys],
    )


class LateChange(NamedTuple):
    """By how much a day that was already over changed. Milliseconds, which may be negative."""

    participant_ms: int
    video_ms: int


async def record_late_changes(
    conn: Connection, changes: Mapping[tuple[Scope, int], LateChange], changed_ms: int
) -> None:
    """Notes changes by (scope, day's start in unix ms), made at ``changed_ms``; the total of a day goes on growing."""
    keys = sorted(changes)
    await conn.execute(
        "INSERT INTO usage_change AS c (project_id, mode, day, changed_ms, participant_ms, video_ms, total_participant_ms,"
        " total_video_ms) SELECT project_id, mode, day, $6, participant_ms, video_ms, participant_ms, video_ms"
        " FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])"
        " AS n (project_id, mode, day, participant_ms, video_ms)"
        " ON CONFLICT (project_id, mode, day) DO UPDATE SET changed_ms = greatest(c.changed_ms, excluded.changed_ms),"
        " participant_ms = excluded.participant_ms, video_ms = excluded.video_ms,"
        " total_participant_ms = c.total_participant_ms + excluded.participant_ms,"
        " total_video_ms = c.total_video_ms + excluded.video_ms",
        [scope.project_id for scope, _ in keys],
        [scope.mode for scope, _ in keys],
        [day for _, day in keys],
        [changes[key].participant_ms for key in keys],
        [changes[key].video_ms for key in keys],
        changed_ms,
    )


# Sums up stretches from ordered changes inside each of them: `at`, by how much the level changes (`change`), and the level
# reached there relative to before (`peak`). A stretch whose start has no change of its own has level 0 there.
_FOLD = (
    " running AS (SELECT *, sum(change) OVER (PARTITION BY project_id, mode, start_ms ORDER BY at) - change + peak AS level"
    " FROM pieces)"
    " INSERT INTO concurrency (project_id, mode, length_ms, start_ms, change, peak)"
    " SELECT project_id, mode, {length}, start_ms, sum(change),"
    " greatest(max(level), CASE WHEN min(at) > start_ms THEN 0 END)"
    " FROM running GROUP BY project_id, mode, start_ms"
    " ON CONFLICT (project_id, mode, length_ms, start_ms) DO UPDATE SET change = excluded.change, peak = excluded.peak"
)
_TOUCHED = "WITH touched (project_id, mode, start_ms) AS (SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::bigint[])),"
# LATERAL: a loop over the touched pieces, each an index scan. Left free, the planner takes a hash or merge join over the whole
# table while it has no statistics yet, and a batch then costs seconds.
_MINUTES = (
    _TOUCHED + " edges AS (SELECT t.*, e.at, e.change FROM touched t CROSS JOIN LATERAL ("
    "SELECT s.started_ms AS at, 1 AS change FROM session s WHERE s.project_id = t.project_id AND s.mode = t.mode"
    " AND s.started_ms >= t.start_ms AND s.started_ms < t.start_ms + 60000"
    " AND (s.ended_ms IS NULL OR s.ended_ms > s.started_ms)"
    # Comparing with started_ms in WHERE would imply that it is not NULL, and make the index by start look as good.
    " UNION ALL SELECT s.ended_ms, CASE WHEN s.ended_ms > s.started_ms THEN -1 ELSE 0 END FROM session s"
    " WHERE s.project_id = t.project_id AND s.mode = t.mode"
    " AND s.ended_ms >= t.start_ms AND s.ended_ms < t.start_ms + 60000"
    # A minute that lost its last edge must become empty, not keep what it was.
    " UNION ALL SELECT t.start_ms, 0) e),"
    " pieces AS (SELECT project_id, mode, start_ms, at, sum(change) AS change, sum(change) AS peak FROM edges"
    " GROUP BY project_id, mode, start_ms, at)," + _FOLD.format(length=MINUTE_MS)
)


def _combined(length_ms: int, piece_ms: int) -> str:
    return (
        _TOUCHED
        + " pieces AS (SELECT t.*, p.* FROM touched t CROSS JOIN LATERAL (SELECT c.start_ms AS at, c.change, c.peak"
        f" FROM concurrency c WHERE c.project_id = t.project_id AND c.mode = t.mode AND c.length_ms = {piece_ms}"
        f" AND c.start_ms >= t.start_ms AND c.start_ms < t.start_ms + {length_ms} OFFSET 0) p),"
    ) + _FOLD.format(length=length_ms)


_LEVELS = ((MINUTE_MS, _MINUTES), (HOUR_MS, _combined(HOUR_MS, MINUTE_MS)), (DAY_MS, _combined(DAY_MS, HOUR_MS)))


def minutes_statement() -> str:
    """The statement that recomputes minutes, for whoever wants to see its plan."""
    return _MINUTES


async def recompute_peaks(conn: Connection, touched: Iterable[tuple[Scope, int]]) -> None:
    """Recomputes the minutes in which sessions of a scope came to start or end elsewhere (unix ms of any such start or end,
    old or new), then the hours and days over them. The scopes must be locked (``lock_scopes``)."""
    instants = sorted(set(touched))
    for length_ms, statement in _LEVELS:
        await conn.execute(
            statement,
            [scope.project_id for scope, _ in instants],
            [scope.mode for scope, _ in instants],
            [at_ms - at_ms % length_ms for _, at_ms in instants],
        )


async def first_hour(conn: Connection, scope: Scope) -> int | None:
    """The earliest hour with any usage or any start of a session."""
    value: int | None = await conn.fetchval(
        "SELECT least((SELECT min(hour) FROM usage_hour WHERE project_id = $1 AND mode = $2),"
        " (SELECT min(started_ms) FROM session WHERE project_id = $1 AND mode = $2 AND started_ms IS NOT NULL))",
        *scope,
    )
    return value
