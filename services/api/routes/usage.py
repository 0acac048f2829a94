"""`GET /v1/usage`."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from services.api.context import Context
from services.api.cursors import Cursor
from services.api.openapi import described
from services.api.usage import usage_for
from services.api.usage_csv import MEDIA_TYPE, usage_csv, wants_csv
from services.api.usage_query import DEFAULT_LIMIT, MAX_LIMIT, read_usage_query
from shared.metering.span import Granularity
from shared.models.names import Timestamp
from shared.models.projects import KeyRecord
from shared.models.usage import GroupBy, Order, Period, UsageAnswer
from shared.queries.usage import Scope
from shared.queries.usage_ranges import Asked


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
    period: FromQuery[Period | None] = None,
    since: Annotated[Timestamp | None, QueryParameter(name="from")] = None,
    to: FromQuery[Timestamp | None] = None,
    granularity: FromQuery[Granularity] = "day",
    group_by: Annotated[GroupBy | None, QueryParameter(name="groupBy")] = None,
    order: FromQuery[Order] = "name",
    limit: FromQuery[Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]] = DEFAULT_LIMIT,
    cursor: FromQuery[Cursor | None] = None,
) -> Response[bytes]:
    """The parameters are declared one by one, and read together: which may go with which is for ``read_usage_query``."""
    now_ms = context.clock.now_ms()
    query = read_usage_query(request.query_params.dict(), now_ms)
    scope, asked = Scope(key.project_id, key.mode), Asked(now_ms, context.stale_ms)
    answer = await usage_for(context.pool, context.redis, scope, query, asked)
    headers = {"vary": "accept", "cache-control": "no-store"}
    if not wants_csv(request.headers.get("accept")):
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)
    headers["content-disposition"] = 'attachment; filename="usage.csv"'
    if answer.next_cursor:
        headers["relay-next-cursor"] = answer.next_cursor
    return Response(usage_csv(answer), media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present", headers=headers)
