"""`GET /openapi.json`, and `GET /docs`: the same as a page for people."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class _Reference(NamedTuple):
    """The reference in both forms, encoded."""

    document: bytes
    page: bytes


def reference_routes(
    described: Sequence[ControllerRouterHandler], dependencies: dict[str, Any], api_url: str
) -> list[ControllerRouterHandler]:
    """Build the routes that document ``described``. Document and page are built at the first request."""

    def build() -> _Reference:
        document = build_document(described, dependencies, api_url)
        return _Reference(msgspec.json.encode(document), render_reference(document).encode())

    lock = asyncio.Lock()
    built: list[_Reference] = []

    async def reference() -> _Reference:
        # Building takes half a second. In a thread, other requests are answered meanwhile.
        async with lock:
            if not built:
                built.append(await asyncio.to_thread(build))
        return built[0]

    @get("/openapi.json", include_in_schema=False)
    async def openapi_json() -> Response[bytes]:
        headers = {"access-control-allow-origin": "*", "cache-control": "no-cache"}
        return Response((await reference()).document, media_type="application/json", headers=headers)

    @get("/docs", include_in_schema=False)
    async def docs() -> Response[bytes]:
        return Response((await reference()).page, media_type="text/html", headers=PAGE_HEADERS)

    @get("/docs/reference.css", include_in_schema=False, sync_to_thread=False)
    def style() -> Response[bytes]:
        return Response(
            (TEMPLATES / "reference.css").read_bytes(),
            media_type="text/css",
            headers={"cache-control": "no-cache"},
        )

    return [openapi_json, docs, style]
