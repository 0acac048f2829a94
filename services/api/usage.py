"""Puts the usage of a project together: rollups of what has ended, open sessions up to now, peaks."""

import asyncpg

from shared import event_stream
from shared.clock import DAY_MS, floor_to
from shared.errors import StoreUnavailable
from shared.metering.peak import EMPTY, daily_peaks
from shared.metering.usage import usage_of
from shared.models.usage import Period, UsageAnswer, build_answer
from shared.postgres import UNAVAILABLE, Connection, Pool
from shared.queries import events as event_queries
from shared.queries import sessions as session_queries
from shared.queries import usage as usage_queries
from shared.queries.usage import Scope

_DAYS = {"today": 1, "7d": 7, "30d": 30}


async def usage_for(pool: Pool, redis: event_stream.Redis, scope: Scope, period: Period, now_ms: int) -> UsageAnswer:
    """Raises ``StoreUnavailable``."""
    try:
        as_of_ms = await _oldest_in_redis(redis)
        # One snapshot for everything: a session that ends meanwhile is counted as open or as ended, never both or neither.
        async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            return await _usage(conn, scope, period, now_ms, as_of_ms)
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        raise StoreUnavailable("usage cannot be read at the moment; try again shortly") from error


async def _oldest_in_redis(redis: event_stream.Redis) -> tuple[bool, int | None]:
    try:
        return True, await event_stream.oldest_unfolded_ms(redis)
    except event_stream.UNAVAILABLE:
        return False, None


async def _usage(
    conn: Connection, scope: Scope, period: Period, now_ms: int, waiting: tuple[bool, int | None]
) -> UsageAnswer:
    today_ms = floor_to(now_ms, DAY_MS)
    if period in _DAYS:
        from_ms = today_ms - (_DAYS[period] - 1) * DAY_MS
    else:
        first = await usage_queries.first_hour(conn, scope)
        from_ms = today_ms if first is None else min(today_ms, floor_to(first, DAY_MS))
    to_ms = today_ms + DAY_MS
    stored = await usage_queries.usage_by_day(conn, scope, from_ms, to_ms)
    participant = {day: usage.participant_ms for day, usage in stored.items()}
    video = {day: usage.video_ms for day, usage in stored.items()}
    provisional_ms = 0
    for session in await session_queries.open_sessions(conn, *scope):
        for hour, usage in usage_of(session, None, now_ms).items():
            day = floor_to(hour, DAY_MS)
            if from_ms <= day < to_ms:
                participant[day] = participant.get(day, 0) + usage.participant_ms
                video[day] = video.get(day, 0) + usage.video_ms
                provisional_ms += usage.participant_ms
    carried_in, stretches = await usage_queries.day_stretches(conn, scope, from_ms, to_ms)
    days = range(from_ms, to_ms, DAY_MS)
    peaks = daily_peaks(carried_in, (stretches.get(day, EMPTY) for day in days))
    rows = [(day, participant.get(day, 0), video.get(day, 0), peak) for day, peak in zip(days, peaks, strict=True)]
    return build_answer(period, rows, await _as_of(conn, now_ms, waiting), provisional_ms)


async def _as_of(conn: Connection, now_ms: int, waiting: tuple[bool, int | None]) -> int:
    """Everything received before this instant is in the numbers."""
    redis_answered, oldest_in_redis = waiting
    candidates = [now_ms, oldest_in_redis, await event_queries.oldest_in_inbox_ms(conn)]
    if not redis_answered:
        # What Redis holds is unknown: only what was folded is certain.
        candidates.append(await event_queries.last_progress_ms(conn) or 0)
    return min(candidate for candidate in candidates if candidate is not None)
