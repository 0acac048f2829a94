"""SQL of the audit of rollups: read the stored rollups and peaks, and clear them before a repair."""

from collections.abc import AsyncIterator
from itertools import zip_longest

import msgspec

from shared.infra.clock import DAY_MS, HOUR_MS, SECOND_MS
from shared.infra.postgres.pool import Connection
from shared.ledger.queries.audit import PREFETCH, TIMEOUT_S
from shared.metering.hours import Usage
from shared.metering.peak import Stretch
from shared.metering.run_usage import RunUsage
from shared.metering.state import MediaRun
from shared.models.scope import DayRange, Scope
from shared.models.usage.audit import StoredStretch
from shared.models.usage.rollups import DIMENSIONS, GroupKey, GroupUsage, MediaKey, RollupKey

_run = msgspec.json.Decoder(MediaRun).decode


async def days_of_rollups(conn: Connection, scope: Scope, span: DayRange | None) -> list[int]:
    """Return the UTC days (of the span) in which any rollup has a row."""
    rows = await conn.fetch(
        """
        SELECT DISTINCT day
        FROM (
            SELECT hour - hour % 86400000 AS day
            FROM usage_hour
            WHERE project_id = $1
              AND mode = $2
            UNION
            SELECT day
            FROM usage_day
            WHERE project_id = $1
              AND mode = $2
            UNION
            SELECT day
            FROM usage_group
            WHERE project_id = $1
              AND mode = $2
            UNION
            SELECT day
            FROM usage_group_count
            WHERE project_id = $1
              AND mode = $2
        ) AS d
        WHERE ($3::bigint IS NULL OR day >= $3)
          AND ($4::bigint IS NULL OR day < $4)
        ORDER BY day
        """,
        *scope,
        *(span or (None, None)),
        timeout=TIMEOUT_S,
    )
    return [row["day"] for row in rows]


async def stored_hours(conn: Connection, scope: Scope, day_ms: int) -> dict[RollupKey, Usage]:
    """Return the stored hours of a day."""
    rows = await conn.fetch(
        """
        SELECT hour, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
        FROM usage_hour
        WHERE project_id = $1
          AND mode = $2
          AND hour >= $3
          AND hour < $4
        """,
        *scope,
        day_ms,
        day_ms + DAY_MS,
    )
    return {RollupKey(*scope, row["hour"], row["kind"]): Usage(*list(row.values())[2:]) for row in rows}


async def stored_day(conn: Connection, scope: Scope, day_ms: int) -> dict[str, Usage]:
    """Return the stored sums of a day, by kind."""
    rows = await conn.fetch(
        """
        SELECT kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions
        FROM usage_day
        WHERE project_id = $1
          AND mode = $2
          AND day = $3
        """,
        *scope,
        day_ms,
    )
    return {row["kind"]: Usage(*list(row.values())[1:]) for row in rows}


async def stored_groups(conn: Connection, scope: Scope, day_ms: int) -> AsyncIterator[tuple[GroupKey, GroupUsage]]:
    """Yield the stored rollups of a day by room and identity."""
    query = """
        SELECT dimension, name, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions, visits
        FROM usage_group
        WHERE project_id = $1
          AND mode = $2
          AND day = $3
        """
    async for row in conn.cursor(query, *scope, day_ms, prefetch=PREFETCH, timeout=TIMEOUT_S):
        dimension = DIMENSIONS[DIMENSIONS.index(row["dimension"])]
        amounts = list(row.values())[2:]
        yield GroupKey(*scope, dimension, day_ms, row["name"]), GroupUsage(Usage(*amounts[:-1]), amounts[-1])


async def stored_names(conn: Connection, scope: Scope, day_ms: int) -> dict[str, int]:
    """Return the stored number of names of a day, by dimension."""
    rows = await conn.fetch(
        """
        SELECT dimension, names
        FROM usage_group_count
        WHERE project_id = $1
          AND mode = $2
          AND day = $3
        """,
        *scope,
        day_ms,
    )
    return {row["dimension"]: row["names"] for row in rows}


async def stored_media_hours(conn: Connection, scope: Scope, span: DayRange | None) -> dict[MediaKey, RunUsage]:
    """Return the stored hours of egress and ingress in a span."""
    rows = await conn.fetch(
        """
        SELECT hour, meter, type, active_ms, inferred_ms, runs
        FROM media_hour
        WHERE project_id = $1
          AND mode = $2
          AND ($3::bigint IS NULL OR hour >= $3)
          AND ($4::bigint IS NULL OR hour < $4)
        """,
        *scope,
        *(span or (None, None)),
        timeout=TIMEOUT_S,
    )
    return {MediaKey(*scope, *list(row.values())[:3]): RunUsage(*list(row.values())[3:]) for row in rows}


async def edges(conn: Connection, scope: Scope, span: DayRange | None) -> AsyncIterator[tuple[int, int]]:
    """Yield (unix ms, change of the number of participants), ascending.

    Sessions of length zero change nothing.
    """
    query = """
        SELECT at, sum(change)::bigint AS change
        FROM (
            SELECT started_ms AS at, 1 AS change
            FROM session
            WHERE project_id = $1
              AND mode = $2
              AND started_ms IS NOT NULL
              AND (ended_ms IS NULL OR ended_ms > started_ms)
              AND ($3::bigint IS NULL OR started_ms >= $3)
              AND ($4::bigint IS NULL OR started_ms < $4)
            UNION ALL
            SELECT ended_ms, -1
            FROM session
            WHERE project_id = $1
              AND mode = $2
              AND started_ms IS NOT NULL
              AND ended_ms > started_ms
              AND ($3::bigint IS NULL OR ended_ms >= $3)
              AND ($4::bigint IS NULL OR ended_ms < $4)
        ) AS e
        GROUP BY at
        ORDER BY at
        """
    async for row in conn.cursor(query, *scope, *(span or (None, None)), prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield row["at"], row["change"]


async def stored_stretches(
    conn: Connection, scope: Scope, length_ms: int, span: DayRange | None
) -> AsyncIterator[StoredStretch]:
    """Yield the stored minutes, hours or days, ascending."""
    query = """
        SELECT start_ms, change, peak, seconds, second_changes, second_peaks
        FROM concurrency
        WHERE project_id = $1
          AND mode = $2
          AND length_ms = $5
          AND ($3::bigint IS NULL OR start_ms >= $3)
          AND ($4::bigint IS NULL OR start_ms < $4)
        ORDER BY start_ms
        """
    parameters = (*scope, *(span or (None, None)), length_ms)
    async for row in conn.cursor(query, *parameters, prefetch=PREFETCH, timeout=TIMEOUT_S):
        start_ms, change, peak, seconds, changes, peaks = row
        pieces = None
        if seconds is not None:
            # Arrays of different lengths, or with a second twice or missing (only a manual change can cause that), are reported
            # as a difference instead of an error.
            pieces = [
                (start_ms + second * SECOND_MS if second is not None else None, *piece)
                for second, *piece in zip_longest(seconds, changes or (), peaks or ())
            ]
        yield StoredStretch(start_ms, Stretch(change, peak), pieces)


async def clear_day(conn: Connection, scope: Scope, day_ms: int) -> None:
    """Delete a day's rollups of sessions, to be filled again. The scope must be locked."""
    for statement in (
        """
        DELETE FROM usage_hour
        WHERE project_id = $1
          AND mode = $2
          AND hour >= $3
          AND hour < $4
        """,
        """
        DELETE FROM usage_day
        WHERE project_id = $1
          AND mode = $2
          AND day >= $3
          AND day < $4
        """,
        """
        DELETE FROM usage_group
        WHERE project_id = $1
          AND mode = $2
          AND day >= $3
          AND day < $4
        """,
        """
        DELETE FROM usage_group_count
        WHERE project_id = $1
          AND mode = $2
          AND day >= $3
          AND day < $4
        """,
    ):
        await conn.execute(statement, *scope, day_ms, day_ms + DAY_MS)


async def clear_media_hour(conn: Connection, scope: Scope, hour_ms: int) -> None:
    """Delete an hour's rollups of egress and ingress, to be filled again. The scope must be locked."""
    statement = "DELETE FROM media_hour WHERE project_id = $1 AND mode = $2 AND hour = $3"
    await conn.execute(statement, *scope, hour_ms)


async def runs_in_hour(conn: Connection, scope: Scope, hour_ms: int) -> AsyncIterator[MediaRun]:
    """Yield the ended egresses and runs of ingresses that were active in an hour."""
    query = """
        SELECT state
        FROM media_run
        WHERE project_id = $1
          AND mode = $2
          AND started_ms IS NOT NULL
          AND started_ms < $4
          AND ended_ms >= $3
        """
    async for row in conn.cursor(query, *scope, hour_ms, hour_ms + HOUR_MS, prefetch=PREFETCH, timeout=TIMEOUT_S):
        yield _run(row["state"])
