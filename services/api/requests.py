"""What holds for every request to the framework's routes, before a handler runs: its key, its query, its body.

So a handler declares what it takes and nothing else::

    @post("/rooms", opt=described(errors=("livekit_unreachable",)))
    async def create_room(key: NamedDependency[KeyRecord], data: JSONBody[CreateRoom], ...) -> RoomAnswer: ...

The key is checked first, then the names in the query, then the body: whoever has no key learns nothing of the rest.
"""

from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute

from services.api.decoding import decode_request, in_words
from shared.errors import InvalidRequest, UnsupportedMediaType
from shared.models.projects import KeyRecord

_JSON = "application/json"
_decoders: dict[Any, "msgspec.json.Decoder[Any]"] = {}


class JsonRequest(Request[Any, Any, State]):
    """A request whose body is decoded by the very type that the handler declares as ``data``, strictly.

    Litestar's own way converts what it has decoded leniently (``"60"`` would do for 60) and loses where an error is.
    """

    async def json(self) -> Any:
        require_json(self.headers.get("content-type"))
        return decode_request(_decoder_of(self.route_handler), await self.body())


def require_json(content_type: str | None) -> None:
    """Passes ``application/json``, ``…+json`` and no type at all. Raises ``UnsupportedMediaType``."""
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
    """A guard that admits requests with a valid secret key. Raises what ``Authentication.admit`` raises."""
    key = await connection.app.state.context.authentication.admit(connection.scope)
    connection.scope["relay_key"] = key  # type: ignore[typeddict-unknown-key]  # a scope may carry an application's own keys


async def provide_key(request: Request[Any, Any, Any]) -> KeyRecord:
    """The dependency ``key`` of handlers behind ``require_secret_key``."""
    key: KeyRecord = request.scope["relay_key"]  # type: ignore[typeddict-item]  # as above
    return key


def remember_parameters(app: Litestar) -> None:
    """Notes for each handler which path and query parameters it and its dependencies declare, by the name in the request."""
    app.state.parameters = {
        handler: _parameters_of(handler, model)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler, model in route.route_handler_map.values()
    }


class _Parameters(NamedTuple):
    query: dict[str, Any]
    path: dict[str, Any]


def _parameters_of(handler: HTTPRouteHandler, model: Any) -> _Parameters:
    fields = dict(handler.parsed_fn_signature.parameters)
    for dependency in handler.resolve_dependencies().values():
        fields |= dependency.parsed_fn_signature.parameters
    return _Parameters(
        *(
            {parameter.field_alias: never_null(fields[parameter.field_name].raw) for parameter in parameters}
            for parameters in (model.expected_query_params, model.expected_path_params)
        )
    )


def never_null(kind: Any) -> Any:
    """Without the None that stands for "not given": ``?limit=null`` is no number. Of what is annotated, only the limits stay:
    msgspec looks types up by their hash, and that of Litestar's parameters takes longer than checking a value."""
    sides = get_args(kind)
    if get_origin(kind) is Annotated:
        limits = [side for side in sides[1:] if isinstance(side, msgspec.Meta)]
        return Annotated[(never_null(sides[0]), *limits)] if limits else never_null(sides[0])
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(side for side in sides if side is not type(None))]  # noqa: UP007  # its sides are known at run time only
    return kind


async def check_parameters(request: Request[Any, Any, Any]) -> None:
    """A ``before_request``: holds path and query against what the handler declares, with the limits of ``msgspec.Meta`` too,
    which Litestar does not see on parameters. A mistyped ``?perod=7d`` must not be answered with the default.

    Raises ``InvalidRequest``.
    """
    declared: _Parameters = request.app.state.parameters[request.route_handler]
    for name, value in request.path_params.items():
        if name in declared.path:
            _check(name, value, declared.path[name])
    given: set[str] = set()
    for name, value in request.query_params.multi_items():
        if name not in declared.query:
            raise InvalidRequest(f"{name} is not a parameter of this request", name, "unknown_field")
        if name in given:
            raise InvalidRequest(f"{name} is there more than once", name)
        given.add(name)
        _check(name, value, declared.query[name])


def _check(name: str, value: Any, kind: Any) -> None:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        choices = msgspec.json.schema(kind).get("enum", ())
        detail = f"{name} must be one of {', '.join(choices)}" if choices else in_words(name, str(error))
        raise InvalidRequest(detail, name) from None


def refuse_query(scope: Any) -> None:
    """For a hot route, which knows no query parameter. Raises ``InvalidRequest``."""
    if not scope["query_string"]:
        return
    for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        raise InvalidRequest(f"{name} is not a parameter of this request", name, "unknown_field")
