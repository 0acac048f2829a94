"""`GET /v1/usage`."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter
from msgspec import Meta

from services.api.context import Context
from services.api.cursors import Cursor
from services.api.openapi import described
from services.api.usage import usage_for
from services.api.usage_csv import MEDIA_TYPE, usage_csv, wants_csv
from services.api.usage_query import DEFAULT_LIMIT, MAX_LIMIT, read_usage_query
from shared.metering.span import Granularity
from shared.models.names import Timestamp
from shared.models.projects import KeyRecord
from shared.models.scope import Scope
from shared.models.usage import GroupBy, Order, Period, UsageAnswer
from shared.models.usage_ranges import UsageClock

_Period = Annotated[
    Period, Meta(description="Days up to and with today; `30d` where nothing is asked for. Not with `from`.")
]
_From = Annotated[
    Timestamp, Meta(description="Start of the range: a UTC midnight, or with `granularity=hour` a full hour.")
]
_To = Annotated[Timestamp, Meta(description="End of the range, not in it; now where it is not given.")]
_Granularity = Annotated[Granularity, Meta(description="Whether `hourly`, `daily` or `monthly` is answered.")]
_GroupBy = Annotated[GroupBy, Meta(description="Adds `groups`: the parts of rooms, identities or kinds.")]
# These two have no default here: a client that sent it along without `groupBy` would be refused.
_Order = Annotated[Order, Meta(description="Of rooms or identities: `name`, or `minutes` for the greatest first.")]
_Limit = Annotated[
    int, Meta(ge=1, le=MAX_LIMIT, description=f"Of rooms or identities; {DEFAULT_LIMIT} where it is not given.")
]


@get(
    "/usage",
    operation_id="getUsage",
    tags=["usage"],
    summary="Usage of the key's project and mode",
    description="By `period`, or from `from` up to `to`; as JSON or CSV, by `Accept`.",
    opt=described(
        errors=("range_too_long", "invalid_cursor", "missing_field", "too_many_groups"),
        answers=UsageAnswer,
        also_answers={MEDIA_TYPE: "date,participantMinutes,videoMinutes\r\n2026-06-18T00:00:00.000Z,96.5,60.25\r\n"},
        answer_headers={"Relay-Next-Cursor": "With CSV: the cursor of the next page, where there is one."},
    ),
)
async def get_usage(
    request: Request[Any, Any, Any],
    key: NamedDependency[KeyRecord],
    context: NamedDependency[Context],
    period: FromQuery[_Period | None] = None,
    since: Annotated[_From | None, QueryParameter(name="from")] = None,
    to: FromQuery[_To | None] = None,
    granularity: FromQuery[_Granularity] = "day",
    group_by: Annotated[_GroupBy | None, QueryParameter(name="groupBy")] = None,
    order: FromQuery[_Order | None] = None,
    limit: FromQuery[_Limit | None] = None,
    cursor: FromQuery[Cursor | None] = None,
) -> Response[bytes]:
    """The parameters are declared one by one, and read together: which may go with which is for ``read_usage_query``."""
    now_ms = context.clock.now_ms()
    query = read_usage_query(request.query_params.dict(), now_ms)
    scope, asked = Scope(key.project_id, key.mode), UsageClock(now_ms, context.stale_ms)
    answer = await usage_for(context.pool, context.waiting, scope, query, asked)
    headers = {"vary": "accept", "cache-control": "no-store"}
    if not wants_csv(request.headers.get("accept")):
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)
    headers["content-disposition"] = 'attachment; filename="usage.csv"'
    if answer.next_cursor:
        headers["relay-next-cursor"] = answer.next_cursor
    return Response(usage_csv(answer), media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present", headers=headers)
