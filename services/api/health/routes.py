"""Serve `GET /healthz`, `GET /readyz` and `GET /metrics`."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import SkipValidation

from services.api.health.schemas import Alive, Readiness
from services.api.health.service import check_readiness
from services.api.http.openapi import described
from services.api.http.serving.server import Drain
from shared.infra import metrics
from shared.infra.postgres.pool import Pool
from shared.infra.redis.event_stream import Redis
from shared.operations.backlog import Backlog


@get("/healthz", operation_id="getHealth", tags=["operations"], summary="Check that the process is alive", security=[])
async def healthz() -> Alive:
    return Alive(status="ok")


@get(
    "/readyz",
    operation_id="getReadiness",
    tags=["operations"],
    summary="Check Postgres, Redis and the migrations",
    description="200 if every check is `ok`, else 503. `checks` says what is wrong.",
    security=[],
    opt=described(also_statuses=(503,)),
)
async def readyz(
    pool: NamedDependency[Pool], redis: NamedDependency[SkipValidation[Redis]], drain: NamedDependency[Drain]
) -> Response[Readiness]:
    readiness = await check_readiness(pool, redis, drain)
    return Response(readiness, status_code=200 if readiness.status == "ok" else 503)


@get("/metrics", summary="Prometheus metrics of this process", include_in_schema=False)
async def get_metrics(request: Request[Any, Any, Any], backlog: NamedDependency[Backlog]) -> Response[bytes]:
    """Render the metrics. The backlog is measured here too, so that it is known without a worker."""
    # `/metrics/` would be the same route. A proxy that hides `/metrics` from the public does not know that.
    if request.scope["raw_path"] != b"/metrics":
        raise NotFoundException
    await backlog.measure()
    return Response(metrics.rendered(), media_type=metrics.CONTENT_TYPE)
