"""What a project used over a range of time: the sums of what has ended, and what is still open up to now.

Everything is read by hour or day (``unit_ms``). ``from_ms`` and ``to_ms`` are multiples of it. Call the functions in one
repeatable-read transaction: a session that ends meanwhile is then open in all of them or in none.
"""

from collections import defaultdict
from typing import NamedTuple

import asyncpg

from shared.clock import DAY_MS, HOUR_MS
from shared.metering.peak import Stretch
from shared.metering.usage import Usage
from shared.postgres import Connection
from shared.queries.usage import Scope


class Asked(NamedTuple):
    """When usage is asked for, and after how long without a sign an open session stops counting (``stale_after_ms``)."""

    now_ms: int
    stale_ms: int | None


# shared/metering/usage.py, counted_until: $3 is when it is asked, $4 how long a sign of life lasts.
COUNTED_UNTIL = (
    "greatest(started_ms, CASE WHEN $3::bigint - greatest(last_sign_ms, confirmed_ms) > $4::bigint"
    " THEN greatest(last_sign_ms, confirmed_ms) ELSE $3::bigint END)"
)
_IS_OPEN = "project_id = $1 AND mode = $2 AND started_ms IS NOT NULL AND ended_ms IS NULL"


async def ended_usage(
    conn: Connection, scope: Scope, from_ms: int, to_ms: int, unit_ms: int
) -> dict[tuple[int, str], Usage]:
    """Sums of the sessions that have ended, by (start of hour or day, kind)."""
    table, start = ("usage_hour", "hour") if unit_ms == HOUR_MS else ("usage_day", "day")
    rows = await conn.fetch(
        f"SELECT {start}, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions FROM {table}"
        f" WHERE project_id = $1 AND mode = $2 AND {start} >= $3 AND {start} < $4",
        *scope,
        from_ms,
        to_ms,
    )
    return {(row[0], row[1]): Usage(*row[2:]) for row in rows}


class OpenUsage(NamedTuple):
    """What open sessions amount to, by (start of hour or day, kind), and how many of them there are."""

    usage: dict[tuple[int, str], Usage]
    connected: int


# Every interval is two edges. An edge tells how much of its own hour or day lies behind it (`ms`), and that all later ones are
# covered whole (`level`): adding up edges costs the same however long the sessions are.
_OPEN_USAGE = (
    f"WITH open AS MATERIALIZED (SELECT kind, started_ms, {COUNTED_UNTIL} AS until_ms, video_edges, screen_share_edges"
    f" FROM session WHERE {_IS_OPEN}),"
    " edges AS (SELECT kind, 0 AS meter, started_ms AS at, 1 AS sign FROM open"
    " UNION ALL SELECT kind, 0, until_ms, -1 FROM open"
    " UNION ALL SELECT kind, 1, least(edge, until_ms), CASE WHEN n % 2 = 1 THEN 1 ELSE -1 END"
    " FROM open, unnest(video_edges) WITH ORDINALITY AS e (edge, n)"
    " UNION ALL SELECT kind, 1, until_ms, -1 FROM open WHERE cardinality(video_edges) % 2 = 1"
    " UNION ALL SELECT kind, 2, least(edge, until_ms), CASE WHEN n % 2 = 1 THEN 1 ELSE -1 END"
    " FROM open, unnest(screen_share_edges) WITH ORDINALITY AS e (edge, n) WHERE cardinality(screen_share_edges) > 0"
    " UNION ALL SELECT kind, 2, until_ms, -1 FROM open WHERE cardinality(screen_share_edges) % 2 = 1),"
    " inside AS (SELECT kind, meter, least(greatest(at, $5::bigint), $6::bigint) AS at, sign FROM edges)"
    " SELECT kind, meter, at - at % $7 AS start, sum(sign * ($7 - at % $7))::bigint AS ms, sum(sign)::bigint AS level"
    " FROM inside GROUP BY 1, 2, 3"
    " UNION ALL SELECT kind, 4, started_ms - started_ms % $7, count(*), 0 FROM open"
    " WHERE started_ms >= $5 AND started_ms < $6 GROUP BY 1, 2, 3"
    " UNION ALL SELECT '', -1, 0, count(*), 0 FROM open"
)


async def open_usage(conn: Connection, scope: Scope, from_ms: int, to_ms: int, unit_ms: int, asked: Asked) -> OpenUsage:
    """What sessions still open amount to; ``inferred_ms`` is 0 in all of it."""
    rows = await conn.fetch(_OPEN_USAGE, *scope, *asked, from_ms, to_ms, unit_ms)
    sums: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * len(Usage._fields))
    edges: defaultdict[tuple[str, int], dict[int, asyncpg.Record]] = defaultdict(dict)
    connected = 0
    for row in rows:
        if row["meter"] == -1:
            connected = row["ms"]
        elif row["meter"] == 4:
            sums[row["start"], row["kind"]][4] = row["ms"]
        else:
            edges[row["kind"], row["meter"]][row["start"]] = row
    for (kind, meter), of_meter in edges.items():
        level = 0
        for start in range(min(of_meter), to_ms, unit_ms):
            amount = level * unit_ms
            if start in of_meter:
                amount += of_meter[start]["ms"]
                level += of_meter[start]["level"]
            if amount:
                sums[start, kind][meter] += amount
    return OpenUsage({key: Usage(*amounts) for key, amounts in sums.items()}, connected)


async def stretches(
    conn: Connection, scope: Scope, from_ms: int, to_ms: int, unit_ms: int, connected: int
) -> tuple[int, dict[int, Stretch]]:
    """How many participants were connected just before ``from_ms``, and the stretch of each hour or day of the range that has
    one. ``connected``: how many are connected now.

    The level before the range is the present one less every change since: that reads what lies in the range, and the days
    after it, but none of the years before it.
    """
    rows = await conn.fetch(
        "SELECT start_ms, change, peak, start_ms < $4 AS inside FROM concurrency WHERE project_id = $1 AND mode = $2"
        " AND length_ms = $5 AND start_ms >= $3 AND start_ms < $6"
        " UNION ALL SELECT $6, coalesce(sum(change), 0)::bigint, 0, false FROM concurrency"
        " WHERE project_id = $1 AND mode = $2 AND length_ms = 86400000 AND start_ms >= $6",
        *scope,
        from_ms,
        to_ms,
        unit_ms,
        # Hours up to the next midnight, whole days from there on.
        -(-to_ms // DAY_MS) * DAY_MS,
    )
    carried_in = connected - sum(row["change"] for row in rows)
    return carried_in, {row["start_ms"]: Stretch(row["change"], row["peak"]) for row in rows if row["inside"]}


class LateChanges(NamedTuple):
    """When and by how much a day last changed after it was over, and by how much in all since then. Milliseconds."""

    changed_ms: int
    participant_ms: int
    video_ms: int
    total_participant_ms: int
    total_video_ms: int


async def late_changes(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, LateChanges]:
    """The days of the range that changed after they were over."""
    rows = await conn.fetch(
        "SELECT day, changed_ms, participant_ms, video_ms, total_participant_ms, total_video_ms FROM usage_change"
        " WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4",
        *scope,
        from_ms,
        to_ms,
    )
    return {row["day"]: LateChanges(*row[1:]) for row in rows}


class MediaUsage(NamedTuple):
    """Milliseconds of egress or ingress; ``runs`` counts those that began."""

    active_ms: int
    inferred_ms: int
    provisional_ms: int
    runs: int


_MEDIA_USAGE = (
    "WITH rows AS (SELECT hour - hour % $7 AS start, meter, type, active_ms, inferred_ms, 0::bigint AS provisional_ms, runs"
    " FROM media_hour WHERE project_id = $1 AND mode = $2 AND hour >= $5 AND hour < $6"
    " UNION ALL SELECT start, meter, coalesce(type, 'other'), ms, 0, ms, (start = started_ms - started_ms % $7)::int"
    f" FROM (SELECT meter, type, started_ms, {COUNTED_UNTIL} AS until_ms FROM media_run WHERE {_IS_OPEN}) AS run,"
    " generate_series(greatest(started_ms - started_ms % $7, $5), least(until_ms, $6 - 1), $7) AS start,"
    " LATERAL (SELECT least(until_ms, start + $7) - greatest(started_ms, start) AS ms) AS span)"
    " SELECT start, meter, type, sum(active_ms)::bigint, sum(inferred_ms)::bigint, sum(provisional_ms)::bigint,"
    " sum(runs)::bigint FROM rows GROUP BY 1, 2, 3"
)


async def media_usage(
    conn: Connection, scope: Scope, from_ms: int, to_ms: int, unit_ms: int, asked: Asked
) -> dict[tuple[int, str, str], MediaUsage]:
    """Egress and ingress by (start of hour or day, meter, type), those still active as far as they count."""
    rows = await conn.fetch(_MEDIA_USAGE, *scope, *asked, from_ms, to_ms, unit_ms)
    return {(row[0], row[1], row[2]): MediaUsage(*row[3:]) for row in rows}
