"""`GET /metrics`: this process's numbers for Prometheus."""

from litestar import Response, get
from litestar.di import NamedDependency

from services.api.context import Context
from shared import metrics


@get("/metrics", summary="Prometheus metrics of this process", include_in_schema=False)
async def get_metrics(context: NamedDependency[Context]) -> Response[bytes]:
    """What waits for the fold is measured when asked for, so that it is known without any worker as well."""
    await context.backlog.measure()
    return Response(metrics.rendered(), media_type=metrics.CONTENT_TYPE)
