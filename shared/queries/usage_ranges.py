"""What a project used over a range of time: the sums of what has ended, and what is still open up to now.

Everything is read by hour or day (``unit_ms``). ``from_ms`` and ``to_ms`` are multiples of it. A session that ends meanwhile is
open in all of the numbers or in none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import asyncpg

from shared.clock import DAY_MS, HOUR_MS
from shared.metering.peak import Stretch
from shared.metering.rounding import Amounts
from shared.models.scope import Scope
from shared.models.usage_ranges import LateChanges, MediaUsage, RangeUsage, UsageClock
from shared.postgres import Connection
from shared.queries.events import ALL_PARTITIONS

# shared/metering/usage.py, counted_until: $3 is when it is asked, $4 how long a sign of life lasts.
COUNTED_UNTIL = (
    "greatest(started_ms, CASE WHEN $3::bigint - greatest(last_sign_ms, confirmed_ms) > $4::bigint"
    " THEN greatest(last_sign_ms, confirmed_ms) ELSE $3::bigint END)"
)
_IS_OPEN = "project_id = $1 AND mode = $2 AND started_ms IS NOT NULL AND ended_ms IS NULL"


# $5 and $6 are the range, $7 is unit_ms. Every interval is two edges. An edge tells how much of its own hour or day lies behind
# it (`ms`), and that all later ones are covered whole (`level`): adding up edges costs the same however long the sessions are.
_OPEN = (
    f"WITH open AS MATERIALIZED (SELECT kind, room, identity, started_ms, {COUNTED_UNTIL} AS until_ms, video_edges,"
    f" screen_share_edges FROM session WHERE {_IS_OPEN}),"
    " edges AS (SELECT kind, 0 AS meter, started_ms AS at, 1 AS sign FROM open"
    " UNION ALL SELECT kind, 0, until_ms, -1 FROM open"
    " UNION ALL SELECT kind, 1, least(edge, until_ms), CASE WHEN n % 2 = 1 THEN 1 ELSE -1 END"
    " FROM open, unnest(video_edges) WITH ORDINALITY AS e (edge, n)"
    " UNION ALL SELECT kind, 1, until_ms, -1 FROM open WHERE cardinality(video_edges) % 2 = 1"
    " UNION ALL SELECT kind, 2, least(edge, until_ms), CASE WHEN n % 2 = 1 THEN 1 ELSE -1 END"
    " FROM open, unnest(screen_share_edges) WITH ORDINALITY AS e (edge, n) WHERE cardinality(screen_share_edges) > 0"
    " UNION ALL SELECT kind, 2, until_ms, -1 FROM open WHERE cardinality(screen_share_edges) % 2 = 1),"
    " inside AS (SELECT kind, meter, least(greatest(at, $5::bigint), $6::bigint) AS at, sign FROM edges)"
)
# Rows of one shape, so that one statement brings them all: which of these it is, a start, two texts, five numbers. The first
# gives the columns their types.
_ENDED, _EDGES, _BEGUN, _CONNECTED, _MEDIA, _STRETCHES, _NAMES, _CHANGES, _FOLDED = range(9)
_NOTHING = Amounts()
_ENDED_ROWS = (
    " SELECT {part}, {start}::bigint, kind, NULL::text, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions"
    " FROM {table} WHERE project_id = $1 AND mode = $2 AND {start} >= $5 AND {start} < $6"
)
_ROWS = {
    _EDGES: "at - at % $7, kind, NULL, meter, sum(sign * ($7::bigint - at % $7))::bigint, sum(sign)::bigint, NULL, NULL"
    " FROM inside GROUP BY 2, kind, meter",
    _BEGUN: "started_ms - started_ms % $7, kind, NULL, count(*), NULL, NULL, NULL, NULL FROM open"
    " WHERE started_ms >= $5 AND started_ms < $6 GROUP BY 2, kind",
    _CONNECTED: "NULL, NULL, NULL, count(*), NULL, NULL, NULL, NULL FROM open",
    _MEDIA: "start, meter, type, sum(active_ms)::bigint, sum(inferred_ms)::bigint, sum(provisional_ms)::bigint,"
    " sum(runs)::bigint, NULL FROM (SELECT hour - hour % $7 AS start, meter, type, active_ms, inferred_ms,"
    " 0::bigint AS provisional_ms, runs"
    " FROM media_hour WHERE project_id = $1 AND mode = $2 AND hour >= $5 AND hour < $6"
    " UNION ALL SELECT start, meter, coalesce(type, 'other'), ms, 0, ms, (start = started_ms - started_ms % $7)::int"
    f" FROM (SELECT meter, type, started_ms, {COUNTED_UNTIL} AS until_ms FROM media_run WHERE {_IS_OPEN}) AS run,"
    " generate_series(greatest(started_ms - started_ms % $7, $5), least(until_ms, $6 - 1), $7) AS start,"
    " LATERAL (SELECT least(until_ms, start + $7) - greatest(started_ms, start) AS ms) AS span) AS media GROUP BY 2, 3, 4",
    # The level before the range is the present one less every change since: that reads what lies in the range, and the days
    # after it, but none of the years before it. Hours up to the next midnight ($8), whole days from there on. Their end is
    # there for the planner: without one it expects a third of the table, and plans anew for each request to avoid that.
    _STRETCHES: "start_ms, NULL, NULL, change, peak, (start_ms < $6)::int, NULL, NULL FROM concurrency"
    " WHERE project_id = $1 AND mode = $2 AND length_ms = $7 AND start_ms >= $5 AND start_ms < $8"
    f" UNION ALL SELECT {_STRETCHES}, $8, NULL, NULL, sum(change)::bigint, 0, 0, NULL, NULL FROM concurrency"
    f" WHERE project_id = $1 AND mode = $2 AND length_ms = {DAY_MS} AND start_ms >= $8 AND start_ms < {1 << 52}"
    " HAVING count(*) > 0",
    _FOLDED: "NULL, NULL, NULL, (SELECT min(received_ms) FROM webhook_inbox),"
    f" (SELECT received_ms FROM fold_progress WHERE partition = {ALL_PARTITIONS}), NULL, NULL, NULL",
}
_ROWS_OF_DAYS = {
    # A name with an open session counts in each day it has reached, unless it counts there already.
    _NAMES: "day, NULL, NULL, coalesce(sum(names) FILTER (WHERE dimension = 'room'), 0)::bigint,"
    " coalesce(sum(names) FILTER (WHERE dimension = 'identity'), 0)::bigint, NULL, NULL, NULL"
    " FROM (SELECT dimension, day, names FROM usage_group_count WHERE project_id = $1 AND mode = $2 AND day >= $5 AND day < $6"
    " UNION ALL SELECT dimension, day, count(*) FROM (SELECT DISTINCT dimension, day, name FROM open,"
    f" generate_series(greatest(started_ms - started_ms % {DAY_MS}, $5),"
    f" least(greatest(until_ms - 1, started_ms), $6 - 1), {DAY_MS}) AS day,"
    " LATERAL (VALUES ('room', coalesce(room, '')), ('identity', coalesce(identity, ''))) AS v (dimension, name)) AS seen"
    " WHERE NOT EXISTS (SELECT FROM usage_group AS g WHERE project_id = $1 AND mode = $2 AND g.dimension = seen.dimension"
    " AND g.day = seen.day AND g.name = seen.name AND visits > 0) GROUP BY 1, 2) AS counts GROUP BY 2",
    _CHANGES: "day, NULL, NULL, changed_ms, participant_ms, video_ms, total_participant_ms, total_video_ms FROM usage_change"
    " WHERE project_id = $1 AND mode = $2 AND day >= $5 AND day < $6",
}


def _statement(table: str, start: str, rows: Mapping[int, str]) -> str:
    ended = _ENDED_ROWS.format(part=_ENDED, table=table, start=start)
    return _OPEN + ended + "".join(f" UNION ALL SELECT {part}, {text}" for part, text in rows.items())


_OF_HOURS = _statement("usage_hour", "hour", _ROWS)
_OF_DAYS = _statement("usage_day", "day", _ROWS)
_OF_NAMED_DAYS = _statement("usage_day", "day", {**_ROWS, **_ROWS_OF_DAYS})


async def read_range(
    conn: Connection, scope: Scope, from_ms: int, to_ms: int, unit_ms: int, asked: UsageClock, names: bool = False
) -> RangeUsage:
    """Everything in one statement: it sees one snapshot by itself, and a round trip costs more than most of its parts.
    ``names``: with the numbers of different names and the late changes, of days."""
    statement = _OF_HOURS if unit_ms == HOUR_MS else _OF_NAMED_DAYS if names else _OF_DAYS
    whole_days_ms = -(-to_ms // DAY_MS) * DAY_MS
    parts: list[list[asyncpg.Record]] = [[] for _ in range(9)]
    for row in await conn.fetch(statement, *scope, *asked, from_ms, to_ms, unit_ms, whole_days_ms):
        parts[row[0]].append(row)
    usage: defaultdict[int, dict[str, Amounts]] = defaultdict(dict)
    for row in parts[_ENDED]:
        usage[row[1]][row[2]] = Amounts(row[4], row[5], row[6], row[7], 0, row[8])
    if parts[_EDGES] or parts[_BEGUN]:
        for start_ms, kind, amounts in _open_usage(parts[_EDGES], parts[_BEGUN], to_ms, unit_ms):
            usage[start_ms][kind] = usage[start_ms].get(kind, _NOTHING).plus(amounts)
    media: defaultdict[int, dict[tuple[str, str], MediaUsage]] = defaultdict(dict)
    for row in parts[_MEDIA]:
        media[row[1]][row[2], row[3]] = MediaUsage(*row[4:8])
    connected, folded = parts[_CONNECTED][0][4], parts[_FOLDED][0]
    return RangeUsage(
        usage,
        media,
        carried_in=connected - sum(row[4] for row in parts[_STRETCHES]),
        stretches={row[1]: Stretch(row[4], row[5]) for row in parts[_STRETCHES] if row[6]},
        names={row[1]: (row[4], row[5]) for row in parts[_NAMES]},
        changes={row[1]: LateChanges(*row[4:]) for row in parts[_CHANGES]},
        oldest_in_inbox_ms=folded[4],
        complete_ms=folded[5],
    )


def _open_usage(
    edges: Iterable[asyncpg.Record], begun: Iterable[asyncpg.Record], to_ms: int, unit_ms: int
) -> Iterator[tuple[int, str, Amounts]]:
    """What sessions still open amount to, by start and kind."""
    sums: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * 4)
    by_meter: defaultdict[tuple[str, int], dict[int, tuple[int, int]]] = defaultdict(dict)
    for row in begun:
        sums[row[1], row[2]][3] = row[4]
    for row in edges:
        by_meter[row[2], row[4]][row[1]] = (row[5], row[6])
    for (kind, meter), of_meter in by_meter.items():
        level = 0
        for start in range(min(of_meter), to_ms, unit_ms):
            amount = level * unit_ms
            if start in of_meter:
                ms, change = of_meter[start]
                amount += ms
                level += change
            if amount:
                sums[start, kind][meter] += amount
    for (start, kind), (participant_ms, video_ms, screen_share_ms, sessions) in sums.items():
        yield start, kind, Amounts(participant_ms, video_ms, screen_share_ms, 0, participant_ms, sessions)
