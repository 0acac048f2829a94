"""Reads the usage of a project: what has ended, open sessions as far as they count, peaks; and when it was last complete."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from services.api import usage_answer
from services.api.cursors import read_cursor, write_cursor
from services.api.usage_answer import SERIES, Measured, Series
from services.api.usage_query import UsageQuery
from shared import event_stream
from shared.clock import rfc3339
from shared.errors import InvalidRequest, StoreUnavailable
from shared.metering.peak import EMPTY, daily_peaks
from shared.metering.rounding import Amounts, Rounding
from shared.metering.span import Span
from shared.models.usage import UsageAnswer
from shared.postgres import UNAVAILABLE, Connection, Pool
from shared.queries import events as event_queries
from shared.queries import groups as group_queries
from shared.queries import usage as usage_queries
from shared.queries import usage_ranges
from shared.queries.usage import Scope
from shared.queries.usage_ranges import Asked, MediaUsage


@asynccontextmanager
async def reading(pool: Pool, what: str) -> AsyncIterator[Connection]:
    """A connection on one snapshot: a session that ends meanwhile is counted as open or as ended, never both or neither.
    Raises ``StoreUnavailable``."""
    try:
        async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            yield conn
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        raise StoreUnavailable(f"{what} cannot be read at the moment; try again shortly") from error


async def usage_for(
    pool: Pool,
    redis: event_stream.Redis,
    scope: Scope,
    query: UsageQuery,
    asked: Asked,
    most_to_rank: int | None = None,
) -> UsageAnswer:
    """``most_to_rank``: names of days that are put in an order by minutes, where the caller has less time than the API.
    Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    waiting = await _oldest_in_redis(redis)
    async with reading(pool, "usage") as conn:
        first_ms = await usage_queries.first_hour(conn, scope) if query.from_ms is None else None
        span = query.span(first_ms)
        found = await read_series(conn, scope, span, asked)
        answer = UsageAnswer(
            period=query.period or "custom",
            from_=rfc3339(span.from_ms),
            to=rfc3339(span.to_ms),
            granularity=span.granularity,
            as_of=rfc3339(await _as_of(conn, asked.now_ms, waiting)),
            provisional_minutes=found.totals.provisional_minutes,
            inferred_minutes=found.totals.inferred_minutes,
            totals=found.totals,
        )
        setattr(answer, SERIES[span.granularity], found.spans)
        if query.group_by is not None:
            answer.group_by = query.group_by
            await _add_groups(conn, scope, query, span, asked, found, answer, most_to_rank)
    return answer


async def read_series(conn: Connection, scope: Scope, span: Span, asked: Asked) -> Series:
    """The usage of each hour, day or month of the span. Inside a transaction on one snapshot (``reading``)."""
    place = (scope, span.from_ms, span.to_ms, span.unit_ms)
    usage: defaultdict[int, defaultdict[str, Amounts]] = defaultdict(lambda: defaultdict(Amounts))
    for (start_ms, kind), ended in (await usage_ranges.ended_usage(conn, *place)).items():
        piece = usage[span.piece_of(start_ms)]
        piece[kind] = piece[kind].plus(Amounts(*ended[:4], 0, ended.sessions))
    still = await usage_ranges.open_usage(conn, *place, asked)
    for (start_ms, kind), more in still.usage.items():
        piece = usage[span.piece_of(start_ms)]
        piece[kind] = piece[kind].plus(Amounts(*more[:3], 0, more.participant_ms, more.sessions))
    media: defaultdict[int, dict[tuple[str, str], MediaUsage]] = defaultdict(dict)
    for (start_ms, *key), run in (await usage_ranges.media_usage(conn, *place, asked)).items():
        of_piece, meter = media[span.piece_of(start_ms)], (str(key[0]), str(key[1]))
        known = of_piece.get(meter, MediaUsage(0, 0, 0, 0))
        of_piece[meter] = MediaUsage(*(a + b for a, b in zip(known, run, strict=True)))
    peaks = await _peaks(conn, scope, span, still.connected)
    if span.granularity != "day":
        return usage_answer.series(span, Measured(usage, media, peaks))
    counts = await group_queries.distinct_names(conn, scope, span.from_ms, span.to_ms, asked)
    days = {day for _, day in counts}
    names = {day: (counts.get(("room", day), 0), counts.get(("identity", day), 0)) for day in days}
    changes = await usage_ranges.late_changes(conn, scope, span.from_ms, span.to_ms)
    return usage_answer.series(span, Measured(usage, media, peaks, names, changes))


async def _peaks(conn: Connection, scope: Scope, span: Span, connected: int) -> dict[int, int]:
    """A month's peak is that of its greatest day."""
    carried_in, pieces = await usage_ranges.stretches(conn, scope, span.from_ms, span.to_ms, span.unit_ms, connected)
    starts = range(span.from_ms, span.to_ms, span.unit_ms)
    peaks: dict[int, int] = {}
    levels = daily_peaks(carried_in, (pieces.get(start_ms, EMPTY) for start_ms in starts))
    for start_ms, peak in zip(starts, levels, strict=True):
        piece_ms = span.piece_of(start_ms)
        peaks[piece_ms] = max(peak, peaks.get(piece_ms, 0))
    return peaks


async def _add_groups(
    conn: Connection,
    scope: Scope,
    query: UsageQuery,
    span: Span,
    asked: Asked,
    found: Series,
    answer: UsageAnswer,
    most_to_rank: int | None,
) -> None:
    if query.group_by is None or query.group_by == "kind":
        answer.groups = usage_answer.kinds(span, found)
        return
    days, dimension = (span.from_ms, span.to_ms), query.group_by
    if query.order == "minutes":
        top = await group_queries.top_groups(conn, scope, dimension, days, asked, query.limit, most_to_rank)
        if top is None:
            raise InvalidRequest(
                f"this range holds too many {dimension} days to order by minutes; take a shorter one, or order=name",
                "order",
                "too_many_groups",
            )
        answer.groups, shown = usage_answer.groups(dimension, top.groups, Rounding())
        answer.group_count, answer.rest = top.names, usage_answer.rest(found.total, shown)
        return
    # The cursor carries what the pages before added up to (ms): rounding goes on where it was, so that all pages add up.
    place = ["usage", dimension, span.from_ms]
    first, video_ms, audio_ms = read_cursor(query.cursor, place, (str, int, int)) or ("", 0, 0)
    rounding = Rounding(video_ms, audio_ms)
    rows = await group_queries.page_of_groups(conn, scope, dimension, days, asked, first, query.limit + 1)
    answer.groups, _ = usage_answer.groups(dimension, rows[: query.limit], rounding)
    answer.next_cursor = None
    if len(rows) > query.limit:
        answer.next_cursor = write_cursor(place, (rows[-1].name, rounding.video.ms, rounding.audio.ms))


async def _oldest_in_redis(redis: event_stream.Redis) -> tuple[bool, int | None]:
    try:
        return True, await event_stream.oldest_unfolded_ms(redis)
    except event_stream.UNAVAILABLE:
        return False, None


async def _as_of(conn: Connection, now_ms: int, waiting: tuple[bool, int | None]) -> int:
    """Everything acknowledged before this instant is in the numbers."""
    redis_answered, oldest_in_redis = waiting
    candidates = [now_ms, oldest_in_redis, await event_queries.oldest_in_inbox_ms(conn)]
    if not redis_answered:
        # What Redis holds is unknown. That one partition was folded up to some time says nothing of the others.
        candidates.append(await event_queries.complete_ms(conn) or 0)
    return min(candidate for candidate in candidates if candidate is not None)
