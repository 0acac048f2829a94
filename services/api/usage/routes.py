"""`GET /v1/usage`."""

from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency

from services.api.context import Context
from services.api.http.openapi import described
from services.api.usage.csv_answer import MEDIA_TYPE, usage_csv, wants_csv
from services.api.usage.parameters import UsageQuery, usage_range
from services.api.usage.schemas import UsageAnswer
from services.api.usage.service import usage_for
from shared.models.projects import KeyRecord
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock


@get(
    "/usage",
    operation_id="getUsage",
    tags=["usage"],
    summary="Usage of the key's project and mode",
    description="Either `period`, or `from` and `to`. `Accept` chooses JSON or CSV.",
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
    params: NamedDependency[UsageQuery],
) -> Response[bytes]:
    now_ms = context.clock.now_ms()
    wanted = usage_range(params, now_ms)
    scope, asked = Scope(key.project_id, key.mode), UsageClock(now_ms, context.stale_ms)
    answer = await usage_for(context.pool, context.waiting, scope, wanted, asked)
    headers = {"vary": "accept", "cache-control": "no-store"}
    if not wants_csv(request.headers.get("accept")):
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)
    headers["content-disposition"] = 'attachment; filename="usage.csv"'
    if answer.next_cursor:
        headers["relay-next-cursor"] = answer.next_cursor
    return Response(usage_csv(answer), media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present", headers=headers)
