"""SQL of the current state of a project, for pages that show it live."""

from shared.infra.postgres.pool import Connection
from shared.models.scope import Scope
from shared.models.usage.overview import LiveNow, LiveRoom, Webhooks
from shared.models.usage.ranges import UsageClock
from shared.usage.queries.usage_ranges import COUNTED_UNTIL


async def live_now(conn: Connection, scope: Scope, clock: UsageClock, limit: int) -> LiveNow:
    """Count who is connected, and return the ``limit`` rooms with the most participants.

    A session without a confirmation for a while no longer adds usage, so it does not count as connected either.
    """
    rows = await conn.fetch(
        f"""
        SELECT
            coalesce(room, '') AS room,
            count(*) AS people,
            count(*) FILTER (WHERE cardinality(video_edges) % 2 = 1) AS with_video,
            min(started_ms) AS since_ms,
            sum(count(*)) OVER ()::bigint AS everybody,
            count(*) OVER () AS rooms
        FROM session
        WHERE project_id = $1
          AND mode = $2
          AND started_ms IS NOT NULL
          AND ended_ms IS NULL
          AND {COUNTED_UNTIL} = $3
        GROUP BY 1
        ORDER BY people DESC, room
        LIMIT $5
        """,
        *scope,
        *clock,
        limit,
    )
    if not rows:
        return LiveNow(0, 0, [])
    return LiveNow(rows[0]["everybody"], rows[0]["rooms"], [LiveRoom(*row[:4]) for row in rows])


async def fingerprint(conn: Connection, scope: Scope) -> str:
    """Return a value that changes whenever the content of the live pages changes.

    That is when a participant joins, leaves, publishes or unpublishes, and when an ended session is counted.
    """
    value: str = await conn.fetchval(
        """
        SELECT md5(
            coalesce(
                (
                    SELECT string_agg(sid || cardinality(video_edges) || last_sign_ms, ',' ORDER BY sid)
                    FROM session
                    WHERE project_id = $1
                      AND mode = $2
                      AND started_ms IS NOT NULL
                      AND ended_ms IS NULL
                ), ''
            ) || coalesce(
                (
                    SELECT sum(participant_ms)
                    FROM (
                        SELECT participant_ms
                        FROM usage_hour
                        WHERE project_id = $1
                          AND mode = $2
                        ORDER BY hour DESC, kind DESC
                        LIMIT 24
                    ) AS recent
                ), 0
            ) || coalesce(
                (
                    SELECT id
                    FROM event
                    WHERE project_id = $1
                      AND mode = $2
                    ORDER BY created_at DESC, id DESC
                    LIMIT 1
                ), ''
            )
        )
        """,
        *scope,
    )
    return value


async def webhooks(conn: Connection, scope: Scope, now_ms: int) -> Webhooks:
    """Return when the newest events were received, and how many the project had in the last five minutes."""
    row = await conn.fetchrow(
        """
        SELECT (
            SELECT (extract(epoch FROM received_at) * 1000)::bigint
            FROM event
            WHERE project_id = $1
              AND mode = $2
            ORDER BY created_at DESC, id DESC
            LIMIT 1
        ) AS last_ms, (
            SELECT max(received_ms)
            FROM fold_progress
            WHERE partition >= 0
        ) AS instance_last_ms, (
            SELECT count(*)
            FROM (
                SELECT FROM event
                WHERE project_id = $1
                  AND mode = $2
                  AND created_at > to_timestamp($3::bigint / 1000.0) - interval '5 min'
                LIMIT 100000
            ) AS few
        ) AS recent
        """,
        *scope,
        now_ms,
    )
    assert row is not None  # noqa: S101  # a SELECT without FROM has one row
    return Webhooks(*row)
