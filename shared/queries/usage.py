"""Rollups by hour and the peaks. A *scope* is a (project id, mode) pair."""

from collections.abc import Iterable, Mapping

from shared.clock import DAY_MS, HOUR_MS, MINUTE_MS, floor_to
from shared.metering.usage import Usage
from shared.models.rollups import DayDifference, RollupKey
from shared.models.scope import Scope
from shared.postgres import Connection


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


async def record_late_changes(
    conn: Connection, changes: Mapping[tuple[Scope, int], DayDifference], changed_ms: int
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


def _stretch(pieces: str, start: str, more: str = "") -> str:
    """A stretch of time out of ordered pieces of it: ``at``, by how much the level changes over the piece (``change``), and the
    level reached in it relative to before (``peak``). A stretch whose start has no piece of its own has level 0 there. Counts
    of participants are added as integers: sums of bigint would be numeric, at several times the cost."""
    return (
        "SELECT coalesce(sum(change), 0) AS change,"
        f" coalesce(greatest(max(level), CASE WHEN min(at) > {start} THEN 0 END), 0) AS peak{more}"
        f" FROM (SELECT *, sum(change) OVER (ORDER BY at) - change + peak AS level FROM ({pieces}) AS pieces) AS running"
    )


# The sessions that start and end in a second. LATERAL and OFFSET 0: a loop over the seconds, of two index scans each. Left
# free, the planner takes a hash or merge join over the whole table while it has no statistics yet, and a batch costs seconds.
_SECOND_START = "t.start_ms + s.second * 1000"
_EDGES = (
    "SELECT at, sum(change)::int AS change, sum(change)::int AS peak FROM ("
    "SELECT b.started_ms AS at, 1 AS change FROM session b WHERE b.project_id = t.project_id AND b.mode = t.mode"
    f" AND b.started_ms >= {_SECOND_START} AND b.started_ms < {_SECOND_START} + 1000"
    " AND (b.ended_ms IS NULL OR b.ended_ms > b.started_ms)"
    # Comparing with started_ms in WHERE would imply that it is not NULL, and make the index by start look as good.
    " UNION ALL SELECT e.ended_ms, CASE WHEN e.ended_ms > e.started_ms THEN -1 ELSE 0 END FROM session e"
    " WHERE e.project_id = t.project_id AND e.mode = t.mode"
    f" AND e.ended_ms >= {_SECOND_START} AND e.ended_ms < {_SECOND_START} + 1000) AS edges GROUP BY at"
)
# A minute keeps what its seconds came to, so that a batch reads the sessions of the seconds it touched and not of the minute:
# those would be read again and again while a busy minute lasts. All sixty where that is not known, and where asked to ($5).
_SECONDS = (
    "SELECT k.second AS at, k.change, k.peak FROM unnest(c.seconds, c.second_changes, c.second_peaks)"
    " AS k (second, change, peak) WHERE k.second <> ALL (w.wanted)"
    " UNION ALL SELECT s.second, f.change::int, f.peak::int FROM unnest(w.wanted) AS s (second)"
    f" CROSS JOIN LATERAL ({_stretch(_EDGES, _SECOND_START, ', count(*) AS edges')}) AS f WHERE f.edges > 0"
)
_KEPT = "".join(
    f", coalesce(array_agg({piece} ORDER BY at), '{{}}') AS {column}"
    for piece, column in (("at", "seconds"), ("change", "second_changes"), ("peak", "second_peaks"))
)
_MINUTES = (
    "WITH touched AS (SELECT project_id, mode, start_ms, array_agg(second) AS seconds"
    " FROM unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[]) AS t (project_id, mode, start_ms, second)"
    " GROUP BY project_id, mode, start_ms)"
    " INSERT INTO concurrency AS c (project_id, mode, length_ms, start_ms, change, peak, seconds, second_changes, second_peaks)"
    " SELECT t.project_id, t.mode, 60000, t.start_ms, m.change, m.peak, m.seconds, m.second_changes, m.second_peaks"
    " FROM touched t LEFT JOIN LATERAL (SELECT true AS stored, seconds, second_changes, second_peaks FROM concurrency"
    " WHERE NOT $5 AND project_id = t.project_id AND mode = t.mode AND length_ms = 60000 AND start_ms = t.start_ms OFFSET 0)"
    " AS c ON true"
    " CROSS JOIN LATERAL (SELECT CASE WHEN $5 OR (c.stored AND c.seconds IS NULL)"
    " THEN ARRAY(SELECT generate_series(0, 59)::smallint) ELSE t.seconds END AS wanted OFFSET 0) AS w"
    f" CROSS JOIN LATERAL ({_stretch(_SECONDS, '0', _KEPT)}) AS m"
    " ON CONFLICT (project_id, mode, length_ms, start_ms) DO UPDATE SET change = excluded.change, peak = excluded.peak,"
    " seconds = excluded.seconds, second_changes = excluded.second_changes, second_peaks = excluded.second_peaks,"
    # Whoever changes a minute without this, a release before this one, makes the table forget its seconds.
    " revision = c.revision + 1"
)


def _combined(length_ms: int, piece_ms: int) -> str:
    pieces = (
        "SELECT c.start_ms AS at, c.change::int, c.peak FROM concurrency c WHERE c.project_id = t.project_id"
        f" AND c.mode = t.mode AND c.length_ms = {piece_ms} AND c.start_ms >= t.start_ms"
        f" AND c.start_ms < t.start_ms + {length_ms} OFFSET 0"
    )
    return (
        "INSERT INTO concurrency (project_id, mode, length_ms, start_ms, change, peak)"
        f" SELECT t.project_id, t.mode, {length_ms}, t.start_ms, s.change, s.peak"
        " FROM unnest($1::text[], $2::text[], $3::bigint[]) AS t (project_id, mode, start_ms)"
        f" CROSS JOIN LATERAL ({_stretch(pieces, 't.start_ms')}) AS s"
        " ON CONFLICT (project_id, mode, length_ms, start_ms) DO UPDATE SET change = excluded.change, peak = excluded.peak"
    )


_LONGER = ((HOUR_MS, _combined(HOUR_MS, MINUTE_MS)), (DAY_MS, _combined(DAY_MS, HOUR_MS)))


def minutes_statement() -> str:
    """The statement that recomputes minutes, for whoever wants to see its plan."""
    return _MINUTES


async def recompute_peaks(conn: Connection, touched: Iterable[tuple[Scope, int]], *, anew: bool = False) -> None:
    """Recomputes the minutes in which sessions of a scope came to start or end elsewhere (unix ms of any such start or end,
    old or new), then the hours and days over them. The scopes must be locked (``lock_scopes``). ``anew``: without relying on
    what is stored of these minutes."""
    seconds = sorted({(scope, at_ms // 1000) for scope, at_ms in touched})
    await conn.execute(
        _MINUTES,
        [scope.project_id for scope, _ in seconds],
        [scope.mode for scope, _ in seconds],
        [second // 60 * MINUTE_MS for _, second in seconds],
        [second % 60 for _, second in seconds],
        anew,
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
    """When anything began to count (unix ms): the earliest hour with usage, or start of a session, an egress or an ingress."""
    value: int | None = await conn.fetchval(
        "SELECT least((SELECT min(hour) FROM usage_hour WHERE project_id = $1 AND mode = $2),"
        " (SELECT min(started_ms) FROM session WHERE project_id = $1 AND mode = $2 AND started_ms IS NOT NULL),"
        " (SELECT min(started_ms) FROM media_run WHERE project_id = $1 AND mode = $2 AND started_ms IS NOT NULL))",
        *scope,
    )
    return value
