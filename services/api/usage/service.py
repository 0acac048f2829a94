"""Read the usage of a project: ended and open sessions, peaks, groups, and `asOf`."""

from collections import defaultdict

from services.api.http.cursors import read_cursor, write_cursor
from services.api.http.transaction import reading
from services.api.usage import answer as usage_answer
from services.api.usage.answer import SERIES, Measured, Series
from services.api.usage.ranges import UsageRange
from services.api.usage.schemas import UsageAnswer
from services.api.usage.stream_backlog import Seen, StreamBacklog, as_of_ms
from shared.errors import InvalidRequest
from shared.infra.clock import rfc3339
from shared.infra.postgres.pool import Connection, Pool
from shared.ledger.queries import usage as usage_queries
from shared.metering.peak import EMPTY, daily_peaks
from shared.metering.rounding import Amounts, Rounding
from shared.metering.span import Span
from shared.models.scope import Scope
from shared.models.usage.ranges import MediaUsage, RangeUsage, UsageClock
from shared.usage import ranking
from shared.usage.queries import groups as group_queries
from shared.usage.queries import usage_ranges


async def usage_for(
    pool: Pool,
    stream_backlog: StreamBacklog,
    scope: Scope,
    query: UsageRange,
    clock: UsageClock,
    most_to_rank: int | None = None,
) -> UsageAnswer:
    """Read the usage of a range. Raises ``InvalidRequest`` and ``StoreUnavailable``.

    ``most_to_rank``: the greatest number of rows (a name on a day) to sort by minutes, for callers with little time.
    """
    by_name = query.group_by in ("room", "identity")
    backlog = await stream_backlog.since(clock.now_ms)
    async with reading(pool, "usage", at_once=query.from_ms is not None and not by_name) as conn:
        return await usage_on(conn, backlog, scope, query, clock, most_to_rank)


async def usage_on(
    conn: Connection,
    backlog: tuple[int, Seen],
    scope: Scope,
    query: UsageRange,
    clock: UsageClock,
    most_to_rank: int | None = None,
) -> UsageAnswer:
    """Read usage on the caller's snapshot.

    ``backlog``: what ``StreamBacklog.since`` returned before the snapshot began. Raises ``InvalidRequest``.
    """
    began_ms, seen = backlog
    first_ms = await usage_queries.first_hour(conn, scope) if query.from_ms is None else None
    span = query.span(first_ms)
    read = await read_span(conn, scope, span, clock)
    series = series_of(span, read)
    answer = UsageAnswer(
        period=query.period or "custom",
        from_=rfc3339(span.from_ms),
        to=rfc3339(span.to_ms),
        granularity=span.granularity,
        as_of=rfc3339(as_of_ms(began_ms, seen, read.oldest_in_inbox_ms, read.complete_ms)),
        provisional_minutes=series.totals.provisional_minutes,
        inferred_minutes=series.totals.inferred_minutes,
        totals=series.totals,
    )
    setattr(answer, SERIES[span.granularity], series.spans)
    if query.group_by is not None:
        answer.group_by = query.group_by
        await _add_groups(conn, scope, query, span, clock, series, answer, most_to_rank)
    return answer


async def read_span(conn: Connection, scope: Scope, span: Span, clock: UsageClock) -> RangeUsage:
    """Read the amounts of a span. Raises what asyncpg raises."""
    days = span.granularity == "day"
    return await usage_ranges.read_range(conn, scope, span.from_ms, span.to_ms, span.unit_ms, clock, names=days)


def series_of(span: Span, read: RangeUsage) -> Series:
    """Build the usage of each hour, day or month of a span."""
    if span.granularity == "month":
        return usage_answer.series(span, _by_month(span, read))
    peaks = dict(zip(span.starts(), _peaks(span, read), strict=True))
    if span.granularity == "hour":
        return usage_answer.series(span, Measured(read.usage, read.media, peaks))
    return usage_answer.series(span, Measured(read.usage, read.media, peaks, read.names, read.changes))


def _peaks(span: Span, read: RangeUsage) -> list[int]:
    starts = range(span.from_ms, span.to_ms, span.unit_ms)
    return daily_peaks(read.carried_in, [read.stretches.get(start_ms, EMPTY) for start_ms in starts])


def _by_month(span: Span, read: RangeUsage) -> Measured:
    """Sum days into months. The peak of a month is the highest peak of its days."""
    usage: defaultdict[int, defaultdict[str, Amounts]] = defaultdict(lambda: defaultdict(Amounts))
    media: defaultdict[int, dict[tuple[str, str], MediaUsage]] = defaultdict(dict)
    peaks: defaultdict[int, int] = defaultdict(int)
    for day, kinds in read.usage.items():
        month = usage[span.piece_of(day)]
        for kind, amounts in kinds.items():
            month[kind] = month[kind].plus(amounts)
    for day, runs in read.media.items():
        of_month = media[span.piece_of(day)]
        for meter, run in runs.items():
            known = of_month.get(meter, MediaUsage(0, 0, 0, 0))
            of_month[meter] = MediaUsage(*(a + b for a, b in zip(known, run, strict=True)))
    for day, peak in zip(range(span.from_ms, span.to_ms, span.unit_ms), _peaks(span, read), strict=True):
        month_ms = span.piece_of(day)
        peaks[month_ms] = max(peak, peaks[month_ms])
    return Measured(usage, media, peaks)


async def _add_groups(
    conn: Connection,
    scope: Scope,
    query: UsageRange,
    span: Span,
    clock: UsageClock,
    series: Series,
    answer: UsageAnswer,
    most_to_rank: int | None,
) -> None:
    if query.group_by is None or query.group_by == "kind":
        answer.groups = usage_answer.kinds(span, series)
        return
    days, dimension = (span.from_ms, span.to_ms), query.group_by
    if query.order == "minutes":
        top = await ranking.top_groups(conn, scope, dimension, days, clock, query.limit, most_to_rank)
        if top is None:
            raise InvalidRequest(
                f"This range holds too many {dimension} days to sort by minutes. Request a shorter range, or use"
                " `order=name`.",
                "order",
                "too_many_groups",
            )
        answer.groups, shown = usage_answer.groups(dimension, top.groups, Rounding())
        answer.group_count, answer.rest = top.names, usage_answer.rest(series.total, shown)
        return
    # The cursor carries the sums of the earlier pages (ms). Rounding continues from them, so that all pages add up exactly.
    place = ["usage", dimension, span.from_ms]
    first, video_ms, audio_ms = read_cursor(query.cursor, place, (str, int, int)) or ("", 0, 0)
    rounding = Rounding(video_ms, audio_ms)
    rows = await group_queries.page_of_groups(conn, scope, dimension, days, clock, first, query.limit + 1)
    answer.groups, _ = usage_answer.groups(dimension, rows[: query.limit], rounding)
    answer.next_cursor = None
    if len(rows) > query.limit:
        answer.next_cursor = write_cursor(place, (rows[-1].name, rounding.video.ms, rounding.audio.ms))
