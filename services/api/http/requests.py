"""Check the key, the parameters and the body of a request before its handler runs.

A handler only declares what it takes::

    @post("/rooms", opt=described(errors=("livekit_unreachable",)))
    async def create_room(key: NamedDependency[KeyRecord], data: JSONBody[CreateRoom], ...) -> RoomAnswer: ...

The key is checked first, then path and query, then the body. A client without a valid key learns nothing about the rest.
"""

from functools import cache
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.params import PathParameter

from services.api.http.decoding import decode_request, in_words
from services.api.http.query import decode_query, refuse_query
from services.api.http.serving.http_limits import admit_body
from shared.errors import InvalidRequest, UnsupportedMediaType

_JSON = "application/json"
_decoders: dict[Any, "msgspec.json.Decoder[Any]"] = {}


class JsonRequest(Request[Any, Any, State]):
    """A request whose body is decoded strictly, as the type that the handler declares as ``data``.

    Litestar's own decoding is lenient (it accepts ``"60"`` for 60) and loses the path of an error.
    """

    async def json(self) -> Any:
        require_json(self.headers.get("content-type"))
        return decode_request(_decoder_of(self.route_handler), await self.body())


def uncached_json(answer: msgspec.Struct, **headers: str) -> Response[bytes]:
    """Return an answer as JSON that no proxy or browser stores."""
    return Response(msgspec.json.encode(answer), media_type=_JSON, headers={"cache-control": "no-store", **headers})


def require_json(content_type: str | None) -> None:
    """Accept ``application/json``, ``…+json`` and no type at all. Raises ``UnsupportedMediaType``."""
    if content_type is None or content_type == _JSON:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != _JSON and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise UnsupportedMediaType(_JSON)


def _decoder_of(handler: BaseRouteHandler) -> "msgspec.json.Decoder[Any]":
    field = handler.parsed_fn_signature.parameters["data"]
    annotation = field.raw
    if annotation not in _decoders:
        _decoders[annotation] = msgspec.json.Decoder(annotation)
    return _decoders[annotation]


async def require_secret_key(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Admit only requests with a valid secret key (a guard). Raises what ``Authentication.admit`` raises."""
    key = await connection.app.state.authentication.admit(connection.scope)
    admit_body(connection.scope)
    connection.scope["relay_key"] = key  # type: ignore[typeddict-unknown-key]  # a scope may carry an application's own keys


async def check_parameters(request: Request[Any, Any, Any]) -> None:
    """Check path and query against what the handler declares, before the body is read.

    A handler without ``params`` takes no parameters: a mistyped ``?perod=7d`` must not get the default answer.
    Raises ``InvalidRequest``.
    """
    for name, kind in path_types(request.route_handler).items():
        if name in request.path_params:
            _check_path(name, request.path_params[name], kind)
    given = request.query_params.multi_items()
    declared = request.route_handler.parsed_fn_signature.parameters.get("params")
    if declared is None:
        refuse_query(given)
    else:
        request.scope["relay_params"] = decode_query(declared.annotation, given)  # type: ignore[typeddict-unknown-key]  # as above


@cache
def path_types(handler: HTTPRouteHandler) -> dict[str, Any]:
    """Return the path parameters of a handler and its dependencies, with limits that Litestar ignores."""
    fields = dict(handler.parsed_fn_signature.parameters)
    for dependency in handler.resolve_dependencies().values():
        fields |= dependency.parsed_fn_signature.parameters
    types: dict[str, Any] = {}
    for name, field in fields.items():
        notes = getattr(field.raw, "__metadata__", ())
        if any(isinstance(note, PathParameter) for note in notes):
            limits = tuple(note for note in notes if isinstance(note, msgspec.Meta))
            types[name] = Annotated[(field.raw.__origin__, *limits)] if limits else field.raw.__origin__
    return types


def _check_path(name: str, value: Any, kind: Any) -> None:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(in_words(name, str(error)), name) from None


def refuse_query_string(scope: Any) -> None:
    """Refuse any query parameter, for a route in front of the framework. Raises ``InvalidRequest``."""
    if scope["query_string"]:
        refuse_query(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
