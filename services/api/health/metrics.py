"""`GET /metrics`: this process's numbers for Prometheus."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException

from services.api.context import Context
from shared.infra import metrics


@get("/metrics", summary="Prometheus metrics of this process", include_in_schema=False)
async def get_metrics(request: Request[Any, Any, Any], context: NamedDependency[Context]) -> Response[bytes]:
    """What waits for the fold is measured when asked for, so that it is known without any worker as well.

    In this one spelling: a proxy that keeps `/metrics` from the public does not know that `/metrics/` is the same here."""
    if request.scope["raw_path"] != b"/metrics":
        raise NotFoundException
    await context.backlog.measure()
    return Response(metrics.rendered(), media_type=metrics.CONTENT_TYPE)
