"""SQL of the usage by room and by identity: rollups by UTC day, pages by name, and the greatest.

A page costs (days of the range) x (names of the page) rows, independent of the number of rooms or identities: a name among
the first n of the whole range is among the first n of each day on which it has a row.
"""

from collections.abc import Mapping
from typing import Final

from shared.infra.postgres.pool import Connection
from shared.models.scope import Scope
from shared.models.usage.ranges import GroupAmounts, TopGroups, UsageClock
from shared.models.usage.rollups import Dimension, GroupKey, GroupUsage
from shared.usage.queries.usage_ranges import COUNTED_UNTIL

# `counted` updates the number of names of a day: a name counts while it has visits. Its visits before this statement are those
# after it minus the difference.
_ADD: Final = """
    WITH n AS (
        SELECT
            project_id, mode, dimension, day, name,
            participant_ms, video_ms, screen_share_ms, inferred_ms, sessions, visits
        FROM unnest(
            $1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[],
            $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]
        ) AS n (
            project_id, mode, dimension, day, name,
            participant_ms, video_ms, screen_share_ms, inferred_ms, sessions, visits
        )
    ),
    written AS (
        INSERT INTO usage_group AS g (
            project_id, mode, dimension, day, name,
            participant_ms, video_ms, screen_share_ms, inferred_ms, sessions, visits
        )
        SELECT
            project_id, mode, dimension, day, name,
            participant_ms, video_ms, screen_share_ms, inferred_ms, sessions, visits
        FROM n
        ON CONFLICT (project_id, mode, dimension, day, name)
        DO UPDATE SET
            participant_ms = g.participant_ms + excluded.participant_ms,
            video_ms = g.video_ms + excluded.video_ms,
            screen_share_ms = g.screen_share_ms + excluded.screen_share_ms,
            inferred_ms = g.inferred_ms + excluded.inferred_ms,
            sessions = g.sessions + excluded.sessions,
            visits = g.visits + excluded.visits
        RETURNING project_id, mode, dimension, day, name, visits
    ),
    counted AS (
        SELECT project_id, mode, dimension, day, sum((w.visits > 0)::int - (w.visits - n.visits > 0)::int) AS names
        FROM written w
        JOIN n USING (project_id, mode, dimension, day, name)
        GROUP BY project_id, mode, dimension, day
    )
    INSERT INTO usage_group_count AS c (project_id, mode, dimension, day, names)
    SELECT project_id, mode, dimension, day, names
    FROM counted
    WHERE names <> 0
    ON CONFLICT (project_id, mode, dimension, day)
    DO UPDATE SET names = c.names + excluded.names
"""


async def add_group_usage(conn: Connection, changes: Mapping[GroupKey, GroupUsage]) -> None:
    """Add differences (which may be negative) to the rollups and to the number of names of each day.

    The scopes must be locked (``lock_scopes``).
    """
    keys = sorted(changes)
    await conn.execute(
        _ADD,
        [key.project_id for key in keys],
        [key.mode for key in keys],
        [key.dimension for key in keys],
        [key.day for key in keys],
        [key.name for key in keys],
        *([changes[key].usage[field] for key in keys] for field in range(5)),
        [changes[key].visits for key in keys],
    )


def _covered(edges: str) -> str:
    """Return SQL for the time of ``[on_ms, off_ms)`` that is on. The edges alternate between on and off."""
    return f"""(
            SELECT coalesce(sum(CASE WHEN n % 2 = 1 THEN -1 ELSE 1 END * least(greatest(edge, on_ms), off_ms)), 0)
            FROM unnest({edges}) WITH ORDINALITY AS e (edge, n)
        ) + CASE WHEN cardinality({edges}) % 2 = 1 THEN off_ms ELSE 0 END"""


# $1 project, $2 mode, $3 and $4 the UsageClock, $5 and $6 the range, $7 the dimension, whose column in `session` is {column}.
# What open sessions add to the range, by name.
_OPEN: Final = f"""
    spans AS (
        SELECT
            coalesce({{column}}, '') COLLATE "C" AS name,
            started_ms,
            {COUNTED_UNTIL} AS until_ms,
            video_edges,
            screen_share_edges
        FROM session
        WHERE project_id = $1
          AND mode = $2
          AND started_ms IS NOT NULL
          AND ended_ms IS NULL
    ),
    clipped AS (
        SELECT
            name,
            started_ms,
            greatest(started_ms, $5::bigint) AS on_ms,
            least(until_ms, $6::bigint) AS off_ms,
            video_edges,
            screen_share_edges
        FROM spans
        WHERE started_ms < $6
          AND (until_ms > $5 OR started_ms >= $5)
    ),
    open AS (
        SELECT
            name,
            off_ms - on_ms AS participant_ms,
            {_covered("video_edges")} AS video_ms,
            {_covered("screen_share_edges")} AS screen_share_ms,
            0 AS inferred_ms,
            off_ms - on_ms AS provisional_ms,
            (started_ms >= $5)::int AS sessions
        FROM clipped
    )"""
_SUMS: Final = """
            sum(participant_ms)::bigint AS participant_ms,
            sum(video_ms)::bigint AS video_ms,
            sum(screen_share_ms)::bigint AS screen_share_ms,
            sum(inferred_ms)::bigint AS inferred_ms,
            sum(provisional_ms)::bigint AS provisional_ms,
            sum(sessions)::bigint AS sessions"""
_COLUMNS: Final = "name, participant_ms, video_ms, screen_share_ms, inferred_ms, provisional_ms, sessions"
_ENDED_COLUMNS: Final = "name, participant_ms, video_ms, screen_share_ms, inferred_ms, 0 AS provisional_ms, sessions"
_PAGE: Final = f"""
    WITH {_OPEN},
    pieces AS (
        SELECT
            found.name, found.participant_ms, found.video_ms, found.screen_share_ms,
            found.inferred_ms, found.provisional_ms, found.sessions
        FROM generate_series($5::bigint, $6::bigint - 1, 86400000) AS d (at)
        CROSS JOIN LATERAL (
            SELECT {_ENDED_COLUMNS}
            FROM usage_group
            WHERE project_id = $1
              AND mode = $2
              AND dimension = $7
              AND day = d.at
              AND name >= $8
              AND visits > 0
            ORDER BY name
            LIMIT $9
        ) AS found
        UNION ALL
        SELECT {_COLUMNS}
        FROM open
        WHERE name >= $8
    )
    SELECT name, {_SUMS}
    FROM pieces
    GROUP BY name
    ORDER BY name
    LIMIT $9
"""
_TOP: Final = f"""
    WITH {_OPEN},
    ended AS (
        SELECT {_ENDED_COLUMNS}
        FROM usage_group
        WHERE project_id = $1
          AND mode = $2
          AND dimension = $7
          AND day >= $5
          AND day < $6
          AND visits > 0
        LIMIT $8
    ),
    pieces AS (
        SELECT {_COLUMNS}
        FROM ended
        UNION ALL
        SELECT {_COLUMNS}
        FROM open
    ),
    groups AS MATERIALIZED (
        SELECT name, {_SUMS}
        FROM pieces
        GROUP BY name
    )
    SELECT
        {_COLUMNS},
        (SELECT count(*) FROM groups) AS groups,
        (SELECT count(*) FROM pieces) AS pieces
    FROM groups
    ORDER BY participant_ms DESC, name
    LIMIT $9
"""


async def page_of_groups(
    conn: Connection,
    scope: Scope,
    dimension: Dimension,
    days: tuple[int, int],
    clock: UsageClock,
    first: str,
    limit: int,
) -> list[GroupAmounts]:
    """Return the first ``limit`` names of ``days``, from ``first`` on, by code point.

    ``days``: two midnights (unix ms).
    """
    rows = await conn.fetch(_PAGE.format(column=dimension), *scope, *clock, *days, dimension, first, limit)
    return [GroupAmounts(*row) for row in rows]


async def count_group_rows(conn: Connection, scope: Scope, dimension: Dimension, days: tuple[int, int]) -> int:
    """Count the rows (a name on a day) of ended sessions in ``days`` (two midnights, unix ms)."""
    count: int = await conn.fetchval(
        """
        SELECT coalesce(sum(names), 0)::bigint
        FROM usage_group_count
        WHERE project_id = $1
          AND mode = $2
          AND dimension = $3
          AND day >= $4
          AND day < $5
        """,
        *scope,
        dimension,
        *days,
    )
    return count


async def greatest_groups(
    conn: Connection,
    scope: Scope,
    dimension: Dimension,
    days: tuple[int, int],
    clock: UsageClock,
    rows_to_read: int,
    limit: int,
) -> tuple[TopGroups, int]:
    """Return the ``limit`` names with the most connected time, and the number of rows that were added up.

    Reads at most ``rows_to_read`` rows of ended sessions, and all open sessions.
    """
    statement = _TOP.format(column=dimension)
    rows = await conn.fetch(statement, *scope, *clock, *days, dimension, rows_to_read, limit)
    if not rows:
        return TopGroups([], 0), 0
    return TopGroups([GroupAmounts(*row[:7]) for row in rows], rows[0]["groups"]), rows[0]["pieces"]
