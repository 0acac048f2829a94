"""SQL of the rollups by hour and of the peaks. A *scope* is a (project id, mode) pair."""

from collections.abc import Iterable, Mapping
from typing import Final

from shared.infra.clock import DAY_MS, HOUR_MS, MINUTE_MS, floor_to
from shared.infra.postgres.pool import Connection
from shared.metering.hours import Usage
from shared.models.scope import Scope
from shared.models.usage.rollups import DayDifference, RollupKey


async def lock_scopes(conn: Connection, scopes: Iterable[Scope]) -> None:
    """Lock the rollups of these scopes until the transaction ends, always in the same order.

    Peaks need the lock: a minute is recomputed from all its sessions. Without it, two transactions could each miss the other's
    sessions.
    """
    ordered = sorted(set(scopes))
    await conn.execute(
        """
        SELECT pg_advisory_xact_lock(hashtext('relay_usage_' || current_schema()), key)
        FROM (
            SELECT DISTINCT hashtext(project_id || mode) AS key
            FROM unnest($1::text[], $2::text[]) AS t (project_id, mode)
            ORDER BY key
        ) AS keys
        """,
        [scope.project_id for scope in ordered],
        [scope.mode for scope in ordered],
    )


_ADDED: Final = """
            participant_ms = u.participant_ms + excluded.participant_ms,
            video_ms = u.video_ms + excluded.video_ms,
            screen_share_ms = u.screen_share_ms + excluded.screen_share_ms,
            inferred_ms = u.inferred_ms + excluded.inferred_ms,
            sessions = u.sessions + excluded.sessions"""
_ADD: Final = f"""
    WITH n AS (
        SELECT project_id, mode, hour, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
        FROM unnest(
            $1::text[], $2::text[], $3::bigint[], $4::text[],
            $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]
        ) AS n (project_id, mode, hour, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions)
    ),
    by_day AS (
        INSERT INTO usage_day AS u (
            project_id, mode, day, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
        )
        SELECT
            project_id, mode, hour - hour % {DAY_MS}, kind,
            sum(participant_ms), sum(video_ms), sum(screen_share_ms), sum(inferred_ms), sum(sessions)
        FROM n
        GROUP BY 1, 2, 3, 4
        ON CONFLICT (project_id, mode, day, kind)
        DO UPDATE SET {_ADDED}
    )
    INSERT INTO usage_hour AS u (
        project_id, mode, hour, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
    )
    SELECT project_id, mode, hour, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
    FROM n
    ON CONFLICT (project_id, mode, hour, kind)
    DO UPDATE SET {_ADDED}
"""


async def add_usage(conn: Connection, changes: Mapping[RollupKey, Usage]) -> None:
    """Add differences (which may be negative) to the rollups by hour and by day.

    The scopes must be locked.
    """
    keys = sorted(changes)
    await conn.execute(
        _ADD,
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


async def record_late_changes(
    conn: Connection, changes: Mapping[tuple[Scope, int], DayDifference], changed_ms: int
) -> None:
    """Record late changes by (scope, start of the day in unix ms), made at ``changed_ms``.

    The total of a day accumulates over all its changes.
    """
    keys = sorted(changes)
    await conn.execute(
        """
        INSERT INTO usage_change AS c (
            project_id, mode, day, changed_ms, participant_ms, video_ms, total_participant_ms, total_video_ms
        )
        SELECT project_id, mode, day, $6, participant_ms, video_ms, participant_ms, video_ms
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS n (
            project_id, mode, day, participant_ms, video_ms
        )
        ON CONFLICT (project_id, mode, day)
        DO UPDATE SET
            changed_ms = greatest(c.changed_ms, excluded.changed_ms),
            participant_ms = excluded.participant_ms,
            video_ms = excluded.video_ms,
            total_participant_ms = c.total_participant_ms + excluded.participant_ms,
            total_video_ms = c.total_video_ms + excluded.video_ms
        """,
        [scope.project_id for scope, _ in keys],
        [scope.mode for scope, _ in keys],
        [day for _, day in keys],
        [changes[key].participant_ms for key in keys],
        [changes[key].video_ms for key in keys],
        changed_ms,
    )


def _stretch(pieces: str, start: str, more: str = "") -> str:
    """Return SQL that combines ordered pieces of time into one stretch (shared/metering/peak.py).

    A piece has ``at``, ``change`` (of the level over the piece) and ``peak`` (relative to the level before it). A stretch
    whose start has no piece has level 0 there. Counts of participants are summed as integers: sums of bigint are
    numeric, which costs several times as much.
    """
    return f"""
        SELECT
            coalesce(sum(change), 0) AS change,
            coalesce(greatest(max(level), CASE WHEN min(at) > {start} THEN 0 END), 0) AS peak
            {more}
        FROM (
            SELECT at, change, peak, sum(change) OVER (ORDER BY at) - change + peak AS level
            FROM ({pieces}) AS pieces
        ) AS running
    """


# LATERAL and OFFSET 0 force a loop over the seconds with two index scans each. Without them and without statistics, the planner
# chooses a hash or merge join over the whole table, and a batch takes seconds.
_SECOND_START: Final = "t.start_ms + s.second * 1000"
# The starts and ends of sessions in one second. The second branch does not compare started_ms in its WHERE: that would imply
# that it is not NULL, and the planner might choose the index by start.
_EDGES: Final = f"""
    SELECT at, sum(change)::int AS change, sum(change)::int AS peak
    FROM (
        SELECT b.started_ms AS at, 1 AS change
        FROM session b
        WHERE b.project_id = t.project_id
          AND b.mode = t.mode
          AND b.started_ms >= {_SECOND_START}
          AND b.started_ms < {_SECOND_START} + 1000
          AND (b.ended_ms IS NULL OR b.ended_ms > b.started_ms)
        UNION ALL
        SELECT e.ended_ms, CASE WHEN e.ended_ms > e.started_ms THEN -1 ELSE 0 END
        FROM session e
        WHERE e.project_id = t.project_id
          AND e.mode = t.mode
          AND e.ended_ms >= {_SECOND_START}
          AND e.ended_ms < {_SECOND_START} + 1000
    ) AS edges
    GROUP BY at
"""
# The seconds of a minute: the stored ones, and those that are read from the sessions (``w.wanted``).
_SECONDS: Final = f"""
    SELECT k.second AS at, k.change, k.peak
    FROM unnest(c.seconds, c.second_changes, c.second_peaks) AS k (second, change, peak)
    WHERE k.second <> ALL (w.wanted)
    UNION ALL
    SELECT s.second, f.change::int, f.peak::int
    FROM unnest(w.wanted) AS s (second)
    CROSS JOIN LATERAL ({_stretch(_EDGES, _SECOND_START, ", count(*) AS edges")}) AS f
    WHERE f.edges > 0
"""
_SECOND_ARRAYS: Final = """,
            coalesce(array_agg(at ORDER BY at), '{}') AS seconds,
            coalesce(array_agg(change ORDER BY at), '{}') AS second_changes,
            coalesce(array_agg(peak ORDER BY at), '{}') AS second_peaks"""
# A batch reads only the sessions of the seconds it touched. Reading the whole minute would read a busy minute again and again.
# All sixty seconds are read if they are not stored, or if $5 is true. Raising the revision tells the trigger
# concurrency_changed that this statement maintains the seconds.
_MINUTES: Final = f"""
    WITH touched AS (
        SELECT project_id, mode, start_ms, array_agg(second) AS seconds
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[]) AS t (project_id, mode, start_ms, second)
        GROUP BY project_id, mode, start_ms
    )
    INSERT INTO concurrency AS c (
        project_id, mode, length_ms, start_ms, change, peak, seconds, second_changes, second_peaks
    )
    SELECT
        t.project_id, t.mode, {MINUTE_MS}, t.start_ms, m.change, m.peak, m.seconds, m.second_changes, m.second_peaks
    FROM touched t
    LEFT JOIN LATERAL (
        SELECT true AS stored, seconds, second_changes, second_peaks
        FROM concurrency
        WHERE NOT $5
          AND project_id = t.project_id
          AND mode = t.mode
          AND length_ms = {MINUTE_MS}
          AND start_ms = t.start_ms
        OFFSET 0
    ) AS c ON true
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN $5 OR (c.stored AND c.seconds IS NULL) THEN ARRAY(SELECT generate_series(0, 59)::smallint)
                ELSE t.seconds
            END AS wanted
        OFFSET 0
    ) AS w
    CROSS JOIN LATERAL ({_stretch(_SECONDS, "0", _SECOND_ARRAYS)}) AS m
    ON CONFLICT (project_id, mode, length_ms, start_ms)
    DO UPDATE SET
        change = excluded.change,
        peak = excluded.peak,
        seconds = excluded.seconds,
        second_changes = excluded.second_changes,
        second_peaks = excluded.second_peaks,
        revision = c.revision + 1
"""


def _combined(length_ms: int, piece_ms: int) -> str:
    """Return the statement that combines stretches of ``piece_ms`` into those of ``length_ms``."""
    pieces = f"""
        SELECT c.start_ms AS at, c.change::int, c.peak
        FROM concurrency c
        WHERE c.project_id = t.project_id
          AND c.mode = t.mode
          AND c.length_ms = {piece_ms}
          AND c.start_ms >= t.start_ms
          AND c.start_ms < t.start_ms + {length_ms}
        OFFSET 0
    """
    return f"""
        INSERT INTO concurrency (project_id, mode, length_ms, start_ms, change, peak)
        SELECT t.project_id, t.mode, {length_ms}, t.start_ms, s.change, s.peak
        FROM unnest($1::text[], $2::text[], $3::bigint[]) AS t (project_id, mode, start_ms)
        CROSS JOIN LATERAL ({_stretch(pieces, "t.start_ms")}) AS s
        ON CONFLICT (project_id, mode, length_ms, start_ms)
        DO UPDATE SET change = excluded.change, peak = excluded.peak
    """


_LONGER: Final = ((HOUR_MS, _combined(HOUR_MS, MINUTE_MS)), (DAY_MS, _combined(DAY_MS, HOUR_MS)))


def minutes_statement() -> str:
    """Return the statement that recomputes minutes, for tests that check its plan."""
    return _MINUTES


async def recompute_peaks(
    conn: Connection, touched: Iterable[tuple[Scope, int]], *, from_sessions: bool = False
) -> None:
    """Recompute the minutes in which sessions of a scope start or end, then their hours and days.

    ``touched``: each such start or end, old or new (unix ms). The scopes must be locked (``lock_scopes``).
    ``from_sessions``: read all seconds of these minutes from the sessions, not from the stored minutes.
    """
    seconds = sorted({(scope, at_ms // 1000) for scope, at_ms in touched})
    await conn.execute(
        _MINUTES,
        [scope.project_id for scope, _ in seconds],
        [scope.mode for scope, _ in seconds],
        [second // 60 * MINUTE_MS for _, second in seconds],
        [second % 60 for _, second in seconds],
        from_sessions,
    )
    for length_ms, statement in _LONGER:
        stretches = sorted({(scope, floor_to(second * 1000, length_ms)) for scope, second in seconds})
        await conn.execute(
            statement,
            [scope.project_id for scope, _ in stretches],
            [scope.mode for scope, _ in stretches],
            [start_ms for _, start_ms in stretches],
        )


async def first_hour(conn: Connection, scope: Scope) -> int | None:
    """Return when a project first had usage (unix ms).

    That is the earliest hour with usage, or the earliest start of a session, an egress or an ingress.
    """
    value: int | None = await conn.fetchval(
        """
        SELECT least(
            (
                SELECT min(hour)
                FROM usage_hour
                WHERE project_id = $1
                  AND mode = $2
            ), (
                SELECT min(started_ms)
                FROM session
                WHERE project_id = $1
                  AND mode = $2
                  AND started_ms IS NOT NULL
            ), (
                SELECT min(started_ms)
                FROM media_run
                WHERE project_id = $1
                  AND mode = $2
                  AND started_ms IS NOT NULL
            )
        )
        """,
        *scope,
    )
    return value
