"""`GET /v1/usage`."""

from typing import Any, get_args

from litestar import Request, get
from litestar.di import NamedDependency

from services.api.context import Context
from services.api.usage import usage_for
from shared.errors import InvalidRequest
from shared.models.usage import Period, UsageAnswer
from shared.queries.usage import Scope

PERIODS: tuple[Period, ...] = get_args(Period)


@get("/v1/usage", summary="Usage of the key's project and mode")
async def get_usage(request: Request[Any, Any, Any], context: NamedDependency[Context]) -> UsageAnswer:
    """``period``: today, 7d, 30d (default) or all."""
    key = await context.keys.authenticate(request.headers.get("authorization"))
    for name in request.query_params:
        if name != "period":
            raise InvalidRequest(f"{name} is not a parameter of this request", name, "unknown_field")
    given = request.query_params.get("period", "30d")
    period = next((known for known in PERIODS if known == given), None)
    if period is None:
        raise InvalidRequest(f"period must be one of {', '.join(PERIODS)}", "period")
    return await usage_for(context.pool, context.redis, Scope(key.project_id, key.mode), period, context.clock.now_ms())
