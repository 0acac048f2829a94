"""Check the range of a usage request: the combination of its parameters and its length."""

from typing import NamedTuple

from services.api.usage.schemas import DEFAULT_LIMIT, GroupBy, Order, Period, UsageQuery
from shared.errors import InvalidRequest
from shared.infra.clock import DAY_MS, HOUR_MS
from shared.metering.span import Granularity, Span, following, start_of

_DAYS = {"today": 1, "7d": 7, "30d": 30}
_LONGEST_MS: dict[Granularity, int] = {"hour": 31 * DAY_MS, "day": 3_660 * DAY_MS, "month": 36_600 * DAY_MS}
_LONGEST_GROUPED_MS = 366 * DAY_MS
_MUST_BE: dict[Granularity, str] = {
    "hour": "a full UTC hour",
    "day": "a UTC midnight. Only `granularity=hour` accepts full hours",
    "month": "a UTC midnight",
}


class UsageRange(NamedTuple):
    """A checked request. Times are unix ms. ``from_ms`` None: from the first session on."""

    period: Period | None
    from_ms: int | None
    to_ms: int
    granularity: Granularity
    group_by: GroupBy | None
    order: Order
    limit: int
    cursor: str | None

    def span(self, first_ms: int | None) -> Span:
        """Return the range. ``first_ms``: start of the first session. Raises ``InvalidRequest`` if too long."""
        to_ms = self.to_ms
        from_ms = self.from_ms
        if from_ms is None:
            today_ms = start_of(to_ms - 1, "day")
            from_ms = today_ms if first_ms is None else min(today_ms, start_of(first_ms, "day"))
        _check_length(from_ms, to_ms, self)
        return Span(from_ms, to_ms, self.granularity)


def usage_range(query: UsageQuery, now_ms: int) -> UsageRange:
    """Check that the parameters go together. Raises ``InvalidRequest`` that names the parameter."""
    by_name = query.group_by in ("room", "identity")
    for name, value in (("order", query.order), ("limit", query.limit), ("cursor", query.cursor)):
        if value is not None and not by_name:
            raise InvalidRequest(f"`{name}` needs `groupBy=room` or `groupBy=identity`.", name)
    if query.order == "minutes" and query.cursor is not None:
        raise InvalidRequest(
            "`cursor` needs `order=name`, because an order by minutes can change between two pages.", "cursor"
        )
    period, from_ms, to_ms = _range(query, now_ms)
    if by_name:
        _check_days(query, from_ms, to_ms)
    limit = DEFAULT_LIMIT if query.limit is None else query.limit
    return UsageRange(
        period, from_ms, to_ms, query.granularity, query.group_by, query.order or "name", limit, query.cursor
    )


def _range(query: UsageQuery, now_ms: int) -> tuple[Period | None, int | None, int]:
    # The range ends with the current hour or day. Later ones have no usage and are left out of the answer.
    current: Granularity = "hour" if query.granularity == "hour" else "day"
    end_ms = following(start_of(now_ms, current), current)
    if query.from_ is None and query.to is None:
        period = query.period or "30d"
        today_ms = start_of(now_ms, "day")
        return period, None if period == "all" else today_ms - (_DAYS[period] - 1) * DAY_MS, today_ms + DAY_MS
    if query.period is not None:
        raise InvalidRequest("`period` and `from`/`to` exclude each other. Send one of them.", "period")
    if query.from_ is None:
        raise InvalidRequest("`to` needs `from`. Send both, or `period`.", "from", "missing_field")
    from_ms = _aligned(query.from_, "from", query.granularity)
    to_ms = end_ms if query.to is None else _aligned(query.to, "to", query.granularity)
    if from_ms >= to_ms and query.to is not None:
        raise InvalidRequest("`from` must be before `to`.", "from")
    if from_ms >= end_ms:
        raise InvalidRequest("`from` must not be in the future.", "from")
    return None, from_ms, min(to_ms, end_ms)


def _aligned(at_ms: int, name: str, granularity: Granularity) -> int:
    if at_ms % (HOUR_MS if granularity == "hour" else DAY_MS):
        raise InvalidRequest(f"`{name}` must be {_MUST_BE[granularity]}.", name)
    return int(at_ms)


def _check_days(query: UsageQuery, from_ms: int | None, to_ms: int) -> None:
    for name, at_ms in (("from", from_ms), ("to", to_ms)):
        if at_ms is not None and at_ms % DAY_MS:
            raise InvalidRequest(
                f"`{name}` must be a UTC midnight, because `groupBy={query.group_by}` counts by day.", name
            )


def _check_length(from_ms: int, to_ms: int, query: UsageRange) -> None:
    param = "from" if query.period is None else "period"
    grouped = query.group_by in ("room", "identity")
    longest_ms = min(_LONGEST_MS[query.granularity], _LONGEST_GROUPED_MS if grouped else to_ms)
    if to_ms - from_ms > longest_ms:
        by_group = grouped and longest_ms == _LONGEST_GROUPED_MS
        what = f"groupBy={query.group_by}" if by_group else f"granularity={query.granularity}"
        raise InvalidRequest(
            f"`{what}` accepts at most {longest_ms // DAY_MS} days. Request a shorter range.", param, "range_too_long"
        )
