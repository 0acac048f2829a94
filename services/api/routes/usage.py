"""`GET /v1/usage`."""

from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency

from services.api.context import Context
from services.api.usage import usage_for
from services.api.usage_csv import MEDIA_TYPE, usage_csv, wants_csv
from services.api.usage_query import read_usage_query
from shared.queries.usage import Scope
from shared.queries.usage_ranges import Asked


@get("/v1/usage", summary="Usage of the key's project and mode")
async def get_usage(request: Request[Any, Any, Any], context: NamedDependency[Context]) -> Response[bytes]:
    """By ``period`` (today, 7d, 30d, all) or from ``from`` up to ``to``, as JSON or CSV."""
    key = await context.keys.authenticate(request.headers.get("authorization"))
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
