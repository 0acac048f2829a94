"""What the rollups of a scope say, by UTC day, for tests that only want that."""

from typing import NamedTuple

from shared.infra.clock import DAY_MS
from shared.infra.postgres.pool import Connection
from shared.metering.peak import Stretch
from shared.models.scope import Scope


class DayUsage(NamedTuple):
    """Milliseconds."""

    participant_ms: int
    video_ms: int


async def usage_by_day(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, DayUsage]:
    """The days of ``[from_ms, to_ms)`` that have usage of sessions that have ended, all kinds together."""
    rows = await conn.fetch(
        "SELECT day, sum(participant_ms)::bigint, sum(video_ms)::bigint FROM usage_day"
        " WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 GROUP BY day",
        *scope,
        from_ms,
        to_ms,
    )
    return {row[0]: DayUsage(row[1], row[2]) for row in rows}


async def stretches_by_day(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, Stretch]:
    """The days of ``[from_ms, to_ms)`` in which sessions started or ended."""
    rows = await conn.fetch(
        "SELECT start_ms, change, peak FROM concurrency WHERE project_id = $1 AND mode = $2"
        " AND length_ms = $5 AND start_ms >= $3 AND start_ms < $4",
        *scope,
        from_ms,
        to_ms,
        DAY_MS,
    )
    return {row[0]: Stretch(row[1], row[2]) for row in rows}
