"""Serve the OpenAPI document at `GET /openapi.json`, and as an HTML page at `GET /docs`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from litestar import Response, get
from litestar.types import ControllerRouterHandler

from services.api.http.openapi import build_document
from services.api.reference.page import TEMPLATES, render_reference

# The page loads nothing but its own style sheet.
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def reference_routes(
    described: Sequence[ControllerRouterHandler], dependencies: dict[str, Any], api_url: str
) -> list[ControllerRouterHandler]:
    """Build the routes that document ``described``. Document and page are built at the first request."""

    @lru_cache(1)
    def document() -> dict[str, Any]:
        return build_document(described, dependencies, api_url)

    @lru_cache(1)
    def page() -> str:
        return render_reference(document())

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def openapi_json() -> Response[bytes]:
        headers = {"access-control-allow-origin": "*", "cache-control": "no-cache"}
        return Response(msgspec.json.encode(document()), media_type="application/json", headers=headers)

    @get("/docs", include_in_schema=False, sync_to_thread=False)
    def docs() -> Response[str]:
        return Response(page(), media_type="text/html", headers=PAGE_HEADERS)

    @get("/docs/reference.css", include_in_schema=False, sync_to_thread=False)
    def style() -> Response[bytes]:
        return Response(
            (TEMPLATES / "reference.css").read_bytes(),
            media_type="text/css",
            headers={"cache-control": "no-cache"},
        )

    return [openapi_json, docs, style]
