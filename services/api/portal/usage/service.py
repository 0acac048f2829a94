"""Compute the charts and tables of a project's usage."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import UNSET

from services.api.http.query import decode_query
from services.api.portal.templating import number
from services.api.portal.usage.charts import Chart, Column, bar_chart
from services.api.usage.ranges import usage_range
from services.api.usage.schemas import Metered, UsageAnswer, UsageOfSpan, UsageQuery
from services.api.usage.service import usage_on
from services.api.usage.stream_backlog import Seen
from shared.infra.postgres.pool import Connection
from shared.metering.span import Granularity
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock

SERIES = ("video", "audio")
# Postgres ranks this many in about 40 ms. A page may take 100 ms in all.
_MOST_TO_RANK = 50_000
_HOURS_BY_NAME = 48


async def read_usage(
    conn: Connection, backlog: tuple[int, Seen], scope: Scope, params: Mapping[str, str], clock: UsageClock
) -> UsageAnswer:
    """Return the answer of `GET /v1/usage` to the same parameters. Raises ``InvalidRequest``.

    ``backlog`` was read before the snapshot of ``conn`` began.
    """
    query = usage_range(decode_query(UsageQuery, params.items()), clock.now_ms)
    return await usage_on(conn, backlog, scope, query, clock, _MOST_TO_RANK)


def spans_of(answer: UsageAnswer) -> Sequence[UsageOfSpan]:
    """Return the hours, days or months of an answer, without those that have not begun."""
    for spans in (answer.hourly, answer.daily, answer.monthly):
        if spans is not UNSET:
            begun = [span for span in spans if span.date <= answer.as_of]
            return begun or spans[:1]
    return ()


def usage_chart(answer: UsageAnswer) -> Chart:
    """Return the chart of video and audio minutes, stacked."""
    spans = spans_of(answer)
    label = _labels(spans, answer.granularity)
    return bar_chart([_column(span, answer.granularity, label(span.date)) for span in spans], SERIES)


def peak_chart(answer: UsageAnswer) -> Chart:
    spans = spans_of(answer)
    label = _labels(spans, answer.granularity)
    columns = [
        Column(
            label(span.date),
            title_of(span.date, answer.granularity),
            (span.peak_participants,),
            (("Peak", number(span.peak_participants), "peak"),),
        )
        for span in spans
    ]
    return bar_chart(columns, ("peak",), 80)


def _column(span: UsageOfSpan, granularity: Granularity, label: str) -> Column:
    lines = (
        ("Video", number(span.video_minutes), "video"),
        ("Audio", number(span.audio_minutes), "audio"),
        ("Peak", number(span.peak_participants), ""),
        ("Sessions", number(span.sessions), ""),
    )
    return Column(
        label,
        title_of(span.date, granularity),
        (span.video_minutes, span.audio_minutes),
        lines,
    )


def _labels(spans: Sequence[UsageOfSpan], granularity: Granularity) -> Callable[[str], str]:
    """Return the function that labels bars. For the hours of more than two days it names only the days."""
    days_only = granularity == "hour" and len(spans) > _HOURS_BY_NAME

    def label(date: str) -> str:
        at = _parsed(date)
        if days_only and at.hour:
            return ""
        return at.strftime({"hour": "%H:%M" if at.hour else "%-d %b", "day": "%-d %b", "month": "%b %y"}[granularity])

    return label


def title_of(date: str, granularity: Granularity) -> str:
    """``Tue 24 Nov 2026``, with the hour, or a month."""
    return _parsed(date).strftime({"hour": "%a %-d %b %Y, %H:%M", "day": "%a %-d %b %Y", "month": "%B %Y"}[granularity])


def _parsed(date: str) -> datetime:
    return datetime.fromisoformat(date).astimezone(UTC)


class Share(NamedTuple):
    """A part of the minutes, of 1, and its class in the style sheet."""

    name: str
    share: float
    text: str
    tone: str


def completeness(totals: Metered) -> list[Share]:
    """Return the shares of observed, inferred and provisional minutes."""
    parts = (
        ("Observed", totals.observed_minutes, "observed"),
        ("Inferred", totals.inferred_minutes, "inferred"),
        ("Provisional", totals.provisional_minutes, "provisional"),
    )
    whole = totals.participant_minutes
    return [Share(name, value / whole if whole else 0, number(value), tone) for name, value, tone in parts]
