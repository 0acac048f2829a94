"""Answer HEAD on pages and health checks, as load balancers and monitors expect.

A HEAD is handled as a GET; uvicorn leaves the body out. Two kinds of paths are exempt: `/v1` and `/api`, whose methods are
listed in the OpenAPI document, and event streams, which end only when the reader leaves.
"""

from typing import Any

_DESCRIBED = ("/v1/", "/api/")
_STREAM = "/live"


def as_get(scope: Any) -> Any:
    """Return the scope with GET instead of HEAD where that is allowed, otherwise the scope unchanged."""
    path = scope["path"]
    if scope["method"] != "HEAD" or path.startswith(_DESCRIBED) or path.endswith(_STREAM):
        return scope
    return {**scope, "method": "GET"}
