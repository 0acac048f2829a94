"""HEAD, where GET answers with a page or a state: load balancers and monitors ask that way.

The server leaves the body out by itself, so a HEAD is answered as the GET that it asks about. Not under `/v1` and `/api`, whose
methods are those of the API's description; and not for streams, which end when their reader goes and not by themselves.
"""

from typing import Any

_DESCRIBED = ("/v1/", "/api/")
_STREAM = "/live"


def as_get(scope: Any) -> Any:
    """The scope of the GET that a HEAD asks about, or the scope as it is."""
    path = scope["path"]
    if scope["method"] != "HEAD" or path.startswith(_DESCRIBED) or path.endswith(_STREAM):
        return scope
    return {**scope, "method": "GET"}
