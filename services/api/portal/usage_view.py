"""The usage of a project as charts and tables show it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import UNSET

from services.api.portal.charts import Chart, Column, bar_chart
from services.api.portal.templating import number
from services.api.portal.visit import Visit
from services.api.usage import usage_for
from services.api.usage_query import read_usage_query
from shared.metering.span import Granularity
from shared.models.usage import Metered, UsageAnswer, UsageOfSpan
from shared.queries.usage_ranges import Asked

SERIES = ("video", "audio")


async def read_usage(visit: Visit, params: Mapping[str, str]) -> UsageAnswer:
    """The answer of `GET /v1/usage` to the same parameters. Raises ``InvalidRequest``, ``StoreUnavailable``."""
    query = read_usage_query({name: [value] for name, value in params.items()}, visit.now_ms)
    context = visit.portal.context
    return await usage_for(context.pool, context.redis, visit.scope, query, asked(visit))


def asked(visit: Visit) -> Asked:
    return Asked(visit.now_ms, visit.portal.context.stale_ms)


def spans_of(answer: UsageAnswer) -> Sequence[UsageOfSpan]:
    """The hours, days or months of an answer, without the hours of today that are still to come."""
    for spans in (answer.hourly, answer.daily, answer.monthly):
        if spans is not UNSET:
            begun = [span for span in spans if span.date <= answer.as_of]
            return begun or spans[:1]
    return ()


def usage_chart(answer: UsageAnswer) -> Chart:
    """Video and audio minutes, stacked."""
    return bar_chart([_column(span, answer.granularity) for span in spans_of(answer)], SERIES)


def peak_chart(answer: UsageAnswer) -> Chart:
    columns = [
        Column(
            _label(span.date, answer.granularity),
            title_of(span.date, answer.granularity),
            (span.peak_participants,),
            (("Peak", number(span.peak_participants), "peak"),),
        )
        for span in spans_of(answer)
    ]
    return bar_chart(columns, ("peak",), 80)


def _column(span: UsageOfSpan, granularity: Granularity) -> Column:
    lines = (
        ("Video", number(span.video_minutes), "video"),
        ("Audio", number(span.audio_minutes), "audio"),
        ("Peak", number(span.peak_participants), ""),
        ("Sessions", number(span.sessions), ""),
    )
    return Column(
        _label(span.date, granularity),
        title_of(span.date, granularity),
        (span.video_minutes, span.audio_minutes),
        lines,
    )


def _label(date: str, granularity: Granularity) -> str:
    at = _parsed(date)
    return at.strftime({"hour": "%H:%M" if at.hour else "%-d %b", "day": "%-d %b", "month": "%b %y"}[granularity])


def title_of(date: str, granularity: Granularity) -> str:
    """``Tue 24 Nov 2026``, with the hour, or a month."""
    return _parsed(date).strftime({"hour": "%a %-d %b %Y, %H:%M", "day": "%a %-d %b %Y", "month": "%B %Y"}[granularity])


def _parsed(date: str) -> datetime:
    return datetime.fromisoformat(date).astimezone(UTC)


class Share(NamedTuple):
    name: str
    share: float
    text: str
    tone: str


def completeness(totals: Metered) -> list[Share]:
    """How sure the minutes are."""
    parts = (
        ("Observed", totals.observed_minutes, "observed"),
        ("Inferred", totals.inferred_minutes, "inferred"),
        ("Provisional", totals.provisional_minutes, "provisional"),
    )
    whole = totals.participant_minutes
    return [Share(name, value / whole if whole else 0, number(value), tone) for name, value, tone in parts]
