"""`GET /openapi.json`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from litestar import Response, get
from litestar.types import ControllerRouterHandler

from services.api.openapi import build_document


def reference_routes(
    described: Sequence[ControllerRouterHandler], dependencies: dict[str, Any], api_url: str
) -> list[ControllerRouterHandler]:
    """Routes that describe the routes ``described``; nothing is built before it is asked for."""

    @lru_cache(1)
    def document() -> bytes:
        return msgspec.json.encode(build_document(described, dependencies, api_url))

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def openapi_json() -> Response[bytes]:
        return Response(document(), media_type="application/json")

    return [openapi_json]
