"""Answer the usage of a range as JSON or CSV: `GET /v1/usage`."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

from services.api.http.openapi import described
from services.api.http.requests import uncached_json
from services.api.usage.csv_answer import MEDIA_TYPE, usage_csv, wants_csv
from services.api.usage.ranges import usage_range
from services.api.usage.schemas import UsageAnswer, UsageQuery
from services.api.usage.service import usage_for
from services.api.usage.stream_backlog import StreamBacklog
from shared.infra.postgres.pool import Pool
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock


@get(
    "/usage",
    operation_id="getUsage",
    tags=["usage"],
    summary="Get the usage of the key's project and mode",
    description="Send `period`, or `from` and `to`. The `Accept` header selects JSON or CSV.",
    opt=described(
        errors=("range_too_long", "invalid_cursor", "missing_field", "too_many_groups"),
        answers=UsageAnswer,
        also_answers={MEDIA_TYPE: "date,participantMinutes,videoMinutes\r\n2026-06-18T00:00:00.000Z,96.5,60.25\r\n"},
        answer_headers={"Relay-Next-Cursor": "With CSV: the cursor of the next page. Absent on the last page."},
    ),
)
async def get_usage(
    request: Request[Any, Any, Any],
    pool: NamedDependency[Pool],
    stream_backlog: NamedDependency[StreamBacklog],
    project_scope: NamedDependency[Scope],
    usage_clock: NamedDependency[UsageClock],
    params: NamedDependency[UsageQuery],
) -> Response[bytes]:
    wanted = usage_range(params, usage_clock.now_ms)
    answer = await usage_for(pool, stream_backlog, project_scope, wanted, usage_clock)
    if not wants_csv(request.headers.get("accept")):
        return uncached_json(answer, vary="accept")
    headers = {
        "vary": "accept",
        "cache-control": "no-store",
        "content-disposition": 'attachment; filename="usage.csv"',
    }
    if answer.next_cursor:
        headers["relay-next-cursor"] = answer.next_cursor
    return Response(usage_csv(answer), media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present", headers=headers)
