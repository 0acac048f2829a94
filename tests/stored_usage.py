"""Read the rollups of a scope by UTC day, for tests."""

from typing import NamedTuple

from shared.infra.clock import DAY_MS
from shared.infra.postgres.pool import Connection
from shared.metering.peak import Stretch
from shared.models.scope import Scope


class DayUsage(NamedTuple):
    """The usage of one day, in milliseconds."""

    participant_ms: int
    video_ms: int


async def usage_by_day(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, DayUsage]:
    """Return the days of ``[from_ms, to_ms)`` with usage of ended sessions, for all kinds together."""
    rows = await conn.fetch(
        "SELECT day, sum(participant_ms)::bigint, sum(video_ms)::bigint FROM usage_day"
        " WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 GROUP BY day",
        *scope,
        from_ms,
        to_ms,
    )
    return {row[0]: DayUsage(row[1], row[2]) for row in rows}


async def stretches_by_day(conn: Connection, scope: Scope, from_ms: int, to_ms: int) -> dict[int, Stretch]:
    """Return the days of ``[from_ms, to_ms)`` in which sessions started or ended."""
    rows = await conn.fetch(
        "SELECT start_ms, change, peak FROM concurrency WHERE project_id = $1 AND mode = $2"
        " AND length_ms = $5 AND start_ms >= $3 AND start_ms < $4",
        *scope,
        from_ms,
        to_ms,
        DAY_MS,
    )
    return {row[0]: Stretch(row[1], row[2]) for row in rows}
