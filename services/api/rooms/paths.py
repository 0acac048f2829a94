"""Allow any text in names of rooms and participants in paths, with `/` as `%2F`.

The server decodes a path before the framework splits it, so an encoded slash would end a name. ``with_whole_names`` runs before
routing and escapes the slashes inside names. The guard ``read_names`` removes the escapes from the names after routing.
"""

from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.utils import normalize_path

from shared.errors import InvalidRequest

_ROOMS = "/v1/rooms"
_READING = ("GET", "HEAD", "OPTIONS")


def with_whole_names(scope: Any) -> Any:
    """Escape the slashes inside the names of a path under `/v1/rooms`. Other scopes stay as they are."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw or not normalize_path(scope["path"]).startswith(_ROOMS):
        return scope
    parts = (unquote(part) for part in raw.decode("latin-1").split("/"))
    return {**scope, "path": "/".join(_escaped(part) for part in parts)}


def read_names(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Put the unescaped names into ``path_params``. Raises ``InvalidRequest``.

    A client that resolves `..` turns `DELETE …/lobby/participants/..` into `DELETE …/lobby/`. A change is refused if its path
    ends with a slash, so that the identity `..` cannot end a room.
    """
    scope: Any = connection.scope
    raw: bytes = scope.get("raw_path") or b""
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("A name in this address is not UTF-8. Percent-encode it as UTF-8.") from None
    if b"//" in raw:
        raise InvalidRequest("A name in this address is empty. Remove the double slash or insert the name.")
    if b"%" in raw:
        # A new dictionary, because the framework reuses its own for the next request to this path.
        scope["path_params"] = {name: _unescaped(value) for name, value in scope["path_params"].items()}
    if raw.endswith(b"/") and scope["path_params"] and scope["method"] not in _READING:
        raise InvalidRequest("This address ends with a slash. Remove the slash, and percent-encode the name before it.")


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")


def _unescaped(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")
