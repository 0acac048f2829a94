"""Reads the parameters of `GET /v1/usage`."""

from collections.abc import Mapping
from typing import NamedTuple, get_args

from services.api.parameters import choice, instant, only_known, whole_number
from shared.clock import DAY_MS, HOUR_MS
from shared.errors import InvalidRequest
from shared.metering.span import GRANULARITIES, Granularity, Span, following, start_of
from shared.models.usage import GroupBy, Order, Period

PERIODS: tuple[Period, ...] = get_args(Period)
GROUPINGS: tuple[GroupBy, ...] = get_args(GroupBy)
ORDERS: tuple[Order, ...] = get_args(Order)
PARAMETERS = ("period", "from", "to", "granularity", "groupBy", "order", "limit", "cursor")
DEFAULT_LIMIT, MAX_LIMIT = 100, 500
_DAYS = {"today": 1, "7d": 7, "30d": 30}
_LONGEST_MS: dict[Granularity, int] = {"hour": 31 * DAY_MS, "day": 3_660 * DAY_MS, "month": 36_600 * DAY_MS}
_LONGEST_GROUPED_MS = 366 * DAY_MS
_MUST_BE: dict[Granularity, str] = {
    "hour": "a full UTC hour",
    "day": "a UTC midnight; granularity=hour takes full hours",
    "month": "a UTC midnight",
}


class UsageQuery(NamedTuple):
    """What is asked for. ``from_ms`` None: from the first session on."""

    period: Period | None
    from_ms: int | None
    to_ms: int
    granularity: Granularity
    group_by: GroupBy | None
    order: Order
    limit: int
    cursor: str | None

    def span(self, first_ms: int | None) -> Span:
        """The range, given when the first session began. Raises ``InvalidRequest`` where it is too long."""
        to_ms = self.to_ms
        from_ms = self.from_ms
        if from_ms is None:
            today_ms = start_of(to_ms - 1, "day")
            from_ms = today_ms if first_ms is None else min(today_ms, start_of(first_ms, "day"))
        _check_length(from_ms, to_ms, self)
        return Span(from_ms, to_ms, self.granularity)


def read_usage_query(params: Mapping[str, list[str]], now_ms: int) -> UsageQuery:
    """Raises ``InvalidRequest`` that names the parameter."""
    given = only_known(params, PARAMETERS)
    granularity = choice(given, "granularity", GRANULARITIES) or "day"
    group_by = choice(given, "groupBy", GROUPINGS)
    order = choice(given, "order", ORDERS) or "name"
    for name in ("order", "limit", "cursor"):
        if name in given and group_by not in ("room", "identity"):
            raise InvalidRequest(f"{name} is for groupBy=room and groupBy=identity", name)
    if order == "minutes" and "cursor" in given:
        raise InvalidRequest("cursor is for order=name: an order by minutes changes while pages are read", "cursor")
    limit = whole_number(given, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
    period, from_ms, to_ms = _range(given, granularity, now_ms)
    if group_by in ("room", "identity"):
        _check_days(from_ms, to_ms)
    return UsageQuery(period, from_ms, to_ms, granularity, group_by, order, limit, given.get("cursor"))


def _range(given: Mapping[str, str], granularity: Granularity, now_ms: int) -> tuple[Period | None, int | None, int]:
    # The end of the current hour or day: what has not begun has no usage, and is no object of the answer.
    current: Granularity = "hour" if granularity == "hour" else "day"
    end_ms = following(start_of(now_ms, current), current)
    if "from" not in given and "to" not in given:
        period = choice(given, "period", PERIODS) or "30d"
        today_ms = start_of(now_ms, "day")
        return period, None if period == "all" else today_ms - (_DAYS[period] - 1) * DAY_MS, today_ms + DAY_MS
    if "period" in given:
        raise InvalidRequest("period and from/to exclude each other", "period")
    if "from" not in given:
        raise InvalidRequest("to needs from", "from", "missing_field")
    from_ms = _aligned(given, "from", granularity)
    to_ms = _aligned(given, "to", granularity) if "to" in given else end_ms
    if from_ms >= to_ms and "to" in given:
        raise InvalidRequest("from must be before to", "from")
    if from_ms >= end_ms:
        raise InvalidRequest("from must not be in the future", "from")
    return None, from_ms, min(to_ms, end_ms)


def _aligned(given: Mapping[str, str], name: str, granularity: Granularity) -> int:
    at_ms = instant(given, name)
    if at_ms % (HOUR_MS if granularity == "hour" else DAY_MS):
        raise InvalidRequest(f"{name} must be {_MUST_BE[granularity]}", name)
    return at_ms


def _check_days(from_ms: int | None, to_ms: int) -> None:
    for name, at_ms in (("from", from_ms), ("to", to_ms)):
        if at_ms is not None and at_ms % DAY_MS:
            raise InvalidRequest(f"{name} must be a UTC midnight: rooms and identities are summed up by day", name)


def _check_length(from_ms: int, to_ms: int, query: UsageQuery) -> None:
    param = "from" if query.period is None else "period"
    grouped = query.group_by in ("room", "identity")
    longest_ms = min(_LONGEST_MS[query.granularity], _LONGEST_GROUPED_MS if grouped else to_ms)
    if to_ms - from_ms > longest_ms:
        what = (
            f"groupBy={query.group_by}"
            if grouped and longest_ms == _LONGEST_GROUPED_MS
            else (f"granularity={query.granularity}")
        )
        raise InvalidRequest(f"{what} takes at most {longest_ms // DAY_MS} days", param, "range_too_long")
