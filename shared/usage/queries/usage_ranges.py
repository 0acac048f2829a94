"""SQL of a project's usage over a range of time: sums of ended sessions, and open sessions up to now.

Usage is read by hour or day (``unit_ms``); ``from_ms`` and ``to_ms`` are multiples of it. One statement reads all numbers on
one snapshot, so a session that ends meanwhile is open in all of them or in none.
"""

from collections import defaultdict
from typing import Final

import asyncpg

from shared.events.queries.events import ALL_PARTITIONS
from shared.infra.clock import DAY_MS, HOUR_MS
from shared.infra.postgres.pool import Connection
from shared.metering.hours import MAX_SESSION_MS
from shared.metering.open_usage import PARTICIPANT, SCREEN_SHARE, VIDEO, EdgeSum, open_usage
from shared.metering.peak import Stretch
from shared.metering.rounding import Amounts
from shared.models.scope import Scope
from shared.models.usage.ranges import LateChanges, MediaUsage, RangeUsage, UsageClock

# In all statements: $1 project, $2 mode, $3 and $4 the UsageClock, $5 and $6 the range, $7 unit_ms, $8 the end of the last
# day.

# The SQL of counted_until (shared/metering/usage.py).
COUNTED_UNTIL: Final = f"""least(
        started_ms + {MAX_SESSION_MS},
        greatest(
            started_ms,
            CASE
                WHEN $3::bigint - greatest(last_sign_ms, confirmed_ms) > $4::bigint THEN greatest(last_sign_ms, confirmed_ms)
                ELSE $3::bigint
            END
        )
    )"""
_NO_END: Final = 1 << 52  # later than any time

# An interval of an open session is two edges: +1 at its start, -1 at its end.
_OPEN_SESSIONS: Final = f"""
open AS MATERIALIZED (
    SELECT kind, room, identity, started_ms, {COUNTED_UNTIL} AS until_ms, video_edges, screen_share_edges
    FROM session
    WHERE project_id = $1
      AND mode = $2
      AND started_ms IS NOT NULL
      AND ended_ms IS NULL
),
edges AS (
    SELECT kind, {PARTICIPANT} AS meter, started_ms AS at, 1 AS sign
    FROM open
    UNION ALL
    SELECT kind, {PARTICIPANT}, until_ms, -1
    FROM open
    UNION ALL
    SELECT kind, {VIDEO}, least(edge, until_ms), CASE WHEN n % 2 = 1 THEN 1 ELSE -1 END
    FROM open, unnest(video_edges) WITH ORDINALITY AS e (edge, n)
    UNION ALL
    SELECT kind, {VIDEO}, until_ms, -1
    FROM open
    WHERE cardinality(video_edges) % 2 = 1
    UNION ALL
    SELECT kind, {SCREEN_SHARE}, least(edge, until_ms), CASE WHEN n % 2 = 1 THEN 1 ELSE -1 END
    FROM open, unnest(screen_share_edges) WITH ORDINALITY AS e (edge, n)
    WHERE cardinality(screen_share_edges) > 0
    UNION ALL
    SELECT kind, {SCREEN_SHARE}, until_ms, -1
    FROM open
    WHERE cardinality(screen_share_edges) % 2 = 1
),
edges_in_range AS (
    SELECT kind, meter, least(greatest(at, $5::bigint), $6::bigint) AS at, sign
    FROM edges
),
edge_sums AS (
    SELECT
        at - at % $7 AS start_ms,
        kind,
        meter,
        sum(sign * ($7::bigint - at % $7))::bigint AS behind_ms,
        sum(sign)::bigint AS level
    FROM edges_in_range
    GROUP BY 1, kind, meter
),
begun AS (
    SELECT started_ms - started_ms % $7 AS start_ms, kind, count(*) AS sessions
    FROM open
    WHERE started_ms >= $5
      AND started_ms < $6
    GROUP BY 1, kind
),
connected AS (
    SELECT count(*) AS people
    FROM open
)"""

_ENDED_SESSIONS: Final = """
ended AS (
    SELECT
        {start} AS start_ms, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
    FROM {table}
    WHERE project_id = $1
      AND mode = $2
      AND {start} >= $5
      AND {start} < $6
)"""

_MEDIA_USAGE: Final = f"""
ended_media AS (
    SELECT hour - hour % $7 AS start_ms, meter, type, active_ms, inferred_ms, 0::bigint AS provisional_ms, runs
    FROM media_hour
    WHERE project_id = $1
      AND mode = $2
      AND hour >= $5
      AND hour < $6
),
open_runs AS (
    SELECT meter, coalesce(type, 'other') AS type, started_ms, {COUNTED_UNTIL} AS until_ms
    FROM media_run
    WHERE project_id = $1
      AND mode = $2
      AND started_ms IS NOT NULL
      AND ended_ms IS NULL
),
open_media AS (
    SELECT
        start_ms,
        meter,
        type,
        least(until_ms, start_ms + $7) - greatest(started_ms, start_ms) AS active_ms,
        (start_ms = started_ms - started_ms % $7)::int AS runs
    FROM open_runs,
        generate_series(greatest(started_ms - started_ms % $7, $5), least(until_ms, $6 - 1), $7) AS start_ms
),
media AS (
    SELECT
        start_ms,
        meter,
        type,
        sum(active_ms)::bigint AS active_ms,
        sum(inferred_ms)::bigint AS inferred_ms,
        sum(provisional_ms)::bigint AS provisional_ms,
        sum(runs)::bigint AS runs
    FROM (
        SELECT start_ms, meter, type, active_ms, inferred_ms, provisional_ms, runs
        FROM ended_media
        UNION ALL
        SELECT start_ms, meter, type, active_ms, 0, active_ms, runs
        FROM open_media
    ) AS pieces
    GROUP BY start_ms, meter, type
)"""

# The level before the range is the current level minus every change since. So the years before the range are not read: only
# the range, the hours up to the next midnight ($8), and whole days after that. Without an upper bound on those days, the
# planner estimates a third of the table, and plans every request again.
_LEVELS: Final = f"""
stretches AS (
    SELECT start_ms, change, peak, (start_ms < $6)::int AS is_in_range
    FROM concurrency
    WHERE project_id = $1
      AND mode = $2
      AND length_ms = $7
      AND start_ms >= $5
      AND start_ms < $8
),
later_days AS (
    SELECT sum(change)::bigint AS change
    FROM concurrency
    WHERE project_id = $1
      AND mode = $2
      AND length_ms = {DAY_MS}
      AND start_ms >= $8
      AND start_ms < {_NO_END}
    HAVING count(*) > 0
)"""

_FOLDED_SO_FAR: Final = f"""
folded AS (
    SELECT
        (SELECT min(received_ms) FROM webhook_inbox) AS oldest_in_inbox_ms,
        (SELECT received_ms FROM fold_progress WHERE partition = {ALL_PARTITIONS}) AS complete_ms
)"""

# A name with an open session counts on each day of the session so far, unless an ended session counts it there already.
_NAMES_AND_CHANGES: Final = f"""
open_names AS (
    SELECT DISTINCT dimension, day, name
    FROM open,
        generate_series(
            greatest(started_ms - started_ms % {DAY_MS}, $5),
            least(greatest(until_ms - 1, started_ms), $6 - 1),
            {DAY_MS}
        ) AS day,
        LATERAL (
            VALUES ('room', coalesce(room, '')), ('identity', coalesce(identity, ''))
        ) AS v (dimension, name)
),
new_names AS (
    SELECT dimension, day, count(*) AS names
    FROM open_names
    WHERE NOT EXISTS (
        SELECT
        FROM usage_group AS g
        WHERE g.project_id = $1
          AND g.mode = $2
          AND g.dimension = open_names.dimension
          AND g.day = open_names.day
          AND g.name = open_names.name
          AND g.visits > 0
    )
    GROUP BY dimension, day
),
names AS (
    SELECT
        day AS start_ms,
        coalesce(sum(names) FILTER (WHERE dimension = 'room'), 0)::bigint AS rooms,
        coalesce(sum(names) FILTER (WHERE dimension = 'identity'), 0)::bigint AS identities
    FROM (
        SELECT dimension, day, names
        FROM usage_group_count
        WHERE project_id = $1
          AND mode = $2
          AND day >= $5
          AND day < $6
        UNION ALL
        SELECT dimension, day, names
        FROM new_names
    ) AS counts
    GROUP BY day
),
changes AS (
    SELECT day AS start_ms, changed_ms, participant_ms, video_ms, total_participant_ms, total_video_ms
    FROM usage_change
    WHERE project_id = $1
      AND mode = $2
      AND day >= $5
      AND day < $6
)"""

# All rows of the result have the same columns: the part, a start, two texts, five numbers. The first SELECT sets the types.
_ENDED, _EDGES, _BEGUN, _CONNECTED, _MEDIA, _STRETCHES, _LATER, _FOLDED, _NAMES, _CHANGES = range(10)
_PARTS: Final = f"""
SELECT {_ENDED} AS part, start_ms, kind AS name, NULL::text AS type,
       participant_ms AS n1, video_ms AS n2, screen_share_ms AS n3, inferred_ms AS n4, sessions AS n5
FROM ended
UNION ALL
SELECT {_EDGES}, start_ms, kind, NULL, meter, behind_ms, level, NULL, NULL
FROM edge_sums
UNION ALL
SELECT {_BEGUN}, start_ms, kind, NULL, sessions, NULL, NULL, NULL, NULL
FROM begun
UNION ALL
SELECT {_CONNECTED}, NULL, NULL, NULL, people, NULL, NULL, NULL, NULL
FROM connected
UNION ALL
SELECT {_MEDIA}, start_ms, meter, type, active_ms, inferred_ms, provisional_ms, runs, NULL
FROM media
UNION ALL
SELECT {_STRETCHES}, start_ms, NULL, NULL, change, peak, is_in_range, NULL, NULL
FROM stretches
UNION ALL
SELECT {_LATER}, NULL, NULL, NULL, change, NULL, NULL, NULL, NULL
FROM later_days
UNION ALL
SELECT {_FOLDED}, NULL, NULL, NULL, oldest_in_inbox_ms, complete_ms, NULL, NULL, NULL
FROM folded"""
_PARTS_OF_DAYS: Final = f"""
UNION ALL
SELECT {_NAMES}, start_ms, NULL, NULL, rooms, identities, NULL, NULL, NULL
FROM names
UNION ALL
SELECT {_CHANGES}, start_ms, NULL, NULL, changed_ms, participant_ms, video_ms, total_participant_ms, total_video_ms
FROM changes"""


def _statement(table: str, start: str, *, names: bool = False) -> str:
    steps = [_OPEN_SESSIONS, _ENDED_SESSIONS.format(table=table, start=start), _MEDIA_USAGE, _LEVELS, _FOLDED_SO_FAR]
    if names:
        steps.append(_NAMES_AND_CHANGES)
    return "WITH " + ",".join(steps) + _PARTS + (_PARTS_OF_DAYS if names else "")


_OF_HOURS: Final = _statement("usage_hour", "hour")
_OF_DAYS: Final = _statement("usage_day", "day")
_OF_NAMED_DAYS: Final = _statement("usage_day", "day", names=True)


async def read_range(
    conn: Connection, scope: Scope, from_ms: int, to_ms: int, unit_ms: int, clock: UsageClock, names: bool = False
) -> RangeUsage:
    """Return the usage of ``[from_ms, to_ms)`` by hour or day, in one statement.

    ``names``: also the numbers of distinct names and the late changes; days only.
    """
    statement = _OF_HOURS if unit_ms == HOUR_MS else _OF_NAMED_DAYS if names else _OF_DAYS
    whole_days_ms = -(-to_ms // DAY_MS) * DAY_MS
    parts: list[list[asyncpg.Record]] = [[] for _ in range(10)]
    for row in await conn.fetch(statement, *scope, *clock, from_ms, to_ms, unit_ms, whole_days_ms):
        parts[row[0]].append(row)
    connected, folded = parts[_CONNECTED][0][4], parts[_FOLDED][0]
    since = sum(row[4] for part in (_STRETCHES, _LATER) for row in parts[part])
    return RangeUsage(
        usage=_usage(parts, to_ms, unit_ms),
        media=_media(parts[_MEDIA]),
        carried_in=connected - since,
        stretches={row[1]: Stretch(row[4], row[5]) for row in parts[_STRETCHES] if row[6]},
        names={row[1]: (row[4], row[5]) for row in parts[_NAMES]},
        changes={row[1]: LateChanges(*row[4:]) for row in parts[_CHANGES]},
        oldest_in_inbox_ms=folded[4],
        complete_ms=folded[5],
    )


def _usage(parts: list[list[asyncpg.Record]], to_ms: int, unit_ms: int) -> dict[int, dict[str, Amounts]]:
    usage: defaultdict[int, dict[str, Amounts]] = defaultdict(dict)
    for row in parts[_ENDED]:
        usage[row[1]][row[2]] = Amounts(row[4], row[5], row[6], row[7], 0, row[8])
    if parts[_EDGES] or parts[_BEGUN]:
        edges = [EdgeSum(row[1], row[2], row[4], row[5], row[6]) for row in parts[_EDGES]]
        begun = [(row[1], row[2], row[4]) for row in parts[_BEGUN]]
        for start_ms, kind, amounts in open_usage(edges, begun, to_ms, unit_ms):
            known = usage[start_ms].get(kind)
            usage[start_ms][kind] = amounts if known is None else known.plus(amounts)
    return usage


def _media(rows: list[asyncpg.Record]) -> dict[int, dict[tuple[str, str], MediaUsage]]:
    media: defaultdict[int, dict[tuple[str, str], MediaUsage]] = defaultdict(dict)
    for row in rows:
        media[row[1]][row[2], row[3]] = MediaUsage(*row[4:8])
    return media
