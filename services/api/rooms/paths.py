"""Names of rooms and participants in paths: any text, with `/` as `%2F`.

The server decodes a path before the framework splits it, so an encoded slash would end a name. ``with_whole_names`` runs before
routing and escapes the slashes inside names; ``read_names``, a guard, takes the escapes out of the routed names again.
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
    """The scope with a path whose parts hold no slash, if it is one of a room; else the scope as it is."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw or not normalize_path(scope["path"]).startswith(_ROOMS):
        return scope
    parts = (unquote(part) for part in raw.decode("latin-1").split("/"))
    return {**scope, "path": "/".join(_escaped(part) for part in parts)}


def read_names(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Puts the names as they were meant into ``path_params``. Raises ``InvalidRequest``.

    A client that resolves `..` turns `DELETE …/lobby/participants/..` into `DELETE …/lobby/`: with a slash at its end an
    address changes nothing, so that no identity can end a room.
    """
    scope: Any = connection.scope
    raw: bytes = scope.get("raw_path") or b""
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("names in this address must be UTF-8, percent-encoded") from None
    if b"//" in raw:
        raise InvalidRequest("names in this address must not be empty")
    if b"%" in raw:
        # A new dictionary: the framework keeps the routed one for the next request to this address.
        scope["path_params"] = {name: _unescaped(value) for name, value in scope["path_params"].items()}
    if raw.endswith(b"/") and scope["path_params"] and scope["method"] not in _READING:
        raise InvalidRequest("this address ends with a slash: write it without, and encode the name before it")


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")


def _unescaped(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")
