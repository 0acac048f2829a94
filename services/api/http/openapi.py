"""Build the OpenAPI 3.1 document from what the routes declare.

Paths and parameters come from Litestar. Schemas, limits and descriptions come from the msgspec structs that decode the requests
and encode the answers. Error answers come from ``problem_codes``: every route gets those of its kind, and names further ones::

    @get("/rooms/{name:str}", operation_id="getRoom", tags=["rooms"], summary="…", opt=described(errors=("room_not_found",)))
    async def get_room(name: FromPath[RoomName], key: NamedDependency[KeyRecord], …) -> RoomAnswer: ...
"""

import copy
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, License, SecurityScheme, Server, Tag
from litestar.response import Response
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler
from litestar.typing import FieldDefinition

from services.api.http.openapi_schemas import finished, move_description, with_present_fields
from services.api.http.problem_codes import CODES
from services.api.http.problems import MEDIA_TYPE, TITLES, ProblemDetails
from services.api.http.query import query_schema
from services.api.http.requests import JsonRequest, path_types

_REF = "#/components/schemas/{name}"
_KEY_ERRORS = (
    "missing_key", "malformed_key", "mistyped_key", "unknown_key", "revoked_key", "expired_key", "archived_project",
    "publishable_key", "store_unavailable", "unknown_field", "rate_limited", "too_many_unknown_keys",
)  # fmt: skip
_BODY_ERRORS = ("invalid_json", "invalid_request", "missing_field", "payload_too_large", "unsupported_media_type")
# These headers are absent if the instance has no limits or could not count the request.
_RATE_HEADERS = {
    "RateLimit-Limit": "Requests per minute. The headers describe the limit that is nearest to being reached.",
    "RateLimit-Remaining": "Requests left in this minute.",
    "RateLimit-Reset": "Seconds until the minute ends.",
    "RateLimit-Policy": "The limit and its window in seconds, such as `3000;w=60`.",
}
_TAGS = {
    "tokens": "Access tokens that let a participant join a room.",
    "rooms": "Open rooms of the key's project and mode.",
    "participants": "Participants of an open room.",
    "usage": "Participant, video and audio minutes, and the sessions and events behind them.",
    "keys": "API keys of the key's project and mode.",
    "webhooks": "The endpoint to which LiveKit sends its webhooks.",
    "operations": "Health of this instance.",
}


def described(
    *,
    errors: Sequence[str] = (),
    example: Any = None,
    answers: Any = None,
    also_statuses: Sequence[int] = (),
    at_least_one: bool = False,
    takes: str = "application/json",
    also_answers: dict[str, str] | None = None,
    answer_headers: dict[str, str] | None = None,
    request_headers: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return a route's ``opt``: the parts of its description that are not in its signature.

    ``errors``: codes beyond those that every route of its kind can answer. ``example``: an example of the request.
    ``at_least_one``: the request needs at least one field. ``takes``: media type of the request. ``answers``: type of the
    answer, if the handler encodes it itself. ``also_statuses``: further statuses with the same answer. ``also_answers``:
    further media types of the answer, each with an example. ``answer_headers``: name to description. ``request_headers``:
    name to OpenAPI parameter fields (``description``, ``schema``).
    """
    unknown = [code for code in errors if code not in CODES]
    if unknown:
        raise ValueError(f"not in problem_codes: {', '.join(unknown)}")
    return {
        "described": {
            "errors": tuple(errors),
            "example": example,
            "answers": answers,
            "also_statuses": tuple(also_statuses),
            "at_least_one": at_least_one,
            "takes": takes,
            "also_answers": also_answers or {},
            "answer_headers": answer_headers or {},
            "request_headers": request_headers or {},
        }
    }


def build_document(handlers: Iterable[ControllerRouterHandler], dependencies: Any, api_url: str) -> dict[str, Any]:
    """Return the document of these routes, as JSON values."""
    # This application is never served. In the served one, Litestar would publish its own pages, which load from a CDN.
    app = Litestar(
        route_handlers=list(handlers),
        dependencies=dependencies,
        request_class=JsonRequest,
        openapi_config=_config(api_url),
        logging_config=None,
    )
    document = copy.deepcopy(app.openapi_schema.to_schema())
    operations = [
        (document["paths"][route.path_format or "/"][method.lower()], handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if handler.resolve_include_in_schema()
    ]
    types: list[Any] = [ProblemDetails]
    for _, handler in operations:
        types += [body for body in (_body_type(handler), _answer_type(handler)) if body is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    for operation, handler in operations:
        _refine(operation, handler, {id(kind): schema for kind, schema in zip(types, schemas, strict=True)})
    for _, handler in operations:
        if _description_of(handler)["at_least_one"]:
            components[handler.parsed_fn_signature.parameters["data"].annotation.__name__]["minProperties"] = 1
    document["components"]["schemas"] = {
        name: finished(with_present_fields(schema)) for name, schema in sorted(components.items())
    }
    return document


def _config(api_url: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Relay",
        version=version("relay-gateway"),
        summary="API keys, room namespaces, tokens and usage in front of LiveKit.",
        description=(
            "Send a secret key with every request: `Authorization: Bearer sk_…`. A request reaches only the project and mode of"
            " its key.\n\nErrors are `application/problem+json` (RFC 9457). Their `code` is stable. Relay refuses an unknown"
            " field or query parameter with an error that names it. Every answer has an `X-Request-Id` header."
        ),
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        servers=[Server(url=api_url)],
        tags=[Tag(name=name, description=description) for name, description in _TAGS.items()],
        components=Components(
            security_schemes={
                "secretKey": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    bearer_format="sk_live_… or sk_test_…",
                    description="A secret API key of a project. Use it on servers only.",
                ),
                "livekitSignature": SecurityScheme(
                    type="apiKey",
                    name="Authorization",
                    security_scheme_in="header",
                    description="LiveKit's webhook token: a JWT that holds the SHA-256 of the body, without `Bearer`.",
                ),
            }
        ),
    )


def _description_of(handler: HTTPRouteHandler) -> dict[str, Any]:
    description: dict[str, Any] = handler.opt.get("described") or described()["described"]
    return description


def _body_type(handler: HTTPRouteHandler) -> Any:
    field = handler.parsed_fn_signature.parameters.get("data")
    return None if field is None else field.raw


def _answer_type(handler: HTTPRouteHandler) -> Any:
    if (answers := _description_of(handler)["answers"]) is not None:
        return answers
    field: FieldDefinition = handler.parsed_fn_signature.return_type
    if field.is_subclass_of(Response):
        field = field.inner_types[0]
    return None if field.is_none_type or field.annotation in (Any, bytes, str) else field.raw


def _refine(operation: dict[str, Any], handler: HTTPRouteHandler, schema_of: dict[int, Any]) -> None:
    """Add what Litestar does not generate: exact schemas, error answers, headers and examples."""
    description = _description_of(handler)
    operation.pop("deprecated", None)
    _refine_parameters(operation, handler, description)
    body = _body_type(handler)
    if body is not None or description["takes"] != "application/json":
        content: dict[str, Any] = {"schema": {"type": "object"} if body is None else schema_of[id(body)]}
        if description["example"] is not None:
            content["example"] = description["example"]
        operation["requestBody"] = {"required": True, "content": {description["takes"]: content}}
    success = operation["responses"].pop(str(handler.status_code))
    answer = _answer_type(handler)
    limited = _RATE_HEADERS if {"secretKey": []} in operation.get("security", []) else {}
    success["description"] = HTTPStatus(handler.status_code).phrase
    success["headers"] = _headers({**limited, **description["answer_headers"]})
    if answer is not None:
        success["content"] = {"application/json": {"schema": schema_of[id(answer)]}}
    for media_type, example in description["also_answers"].items():
        success.setdefault("content", {})[media_type] = {"schema": {"type": "string"}, "example": example}
    operation["responses"] = {
        str(handler.status_code): success,
        **{
            str(status): {**success, "description": HTTPStatus(status).phrase}
            for status in description["also_statuses"]
        },
        **_error_answers(_codes_of(operation, description, body is not None)),
    }


def _codes_of(operation: dict[str, Any], description: dict[str, Any], has_body: bool) -> list[str]:
    codes = list(description["errors"])
    if {"secretKey": []} in operation.get("security", []):
        codes += _KEY_ERRORS
    if has_body:
        codes += _BODY_ERRORS
    if operation.get("parameters"):
        codes.append("invalid_request")
    return list(dict.fromkeys([*codes, "internal_error"]))


def _refine_parameters(operation: dict[str, Any], handler: HTTPRouteHandler, description: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        for noise in ("deprecated", "allowEmptyValue", "allowReserved"):
            parameter.pop(noise, None)
        kind = path_types(handler).get(parameter["name"])
        if kind is not None:
            parameter["schema"] = finished(msgspec.json.schema(kind))
        move_description(parameter)
    query = handler.parsed_fn_signature.parameters.get("params")
    for name, schema in {} if query is None else query_schema(query.annotation).items():
        parameter = {"name": name, "in": "query", "required": False, "schema": finished(schema)}
        move_description(parameter)
        operation.setdefault("parameters", []).append(parameter)
    for name, fields in description["request_headers"].items():
        operation.setdefault("parameters", []).append({"name": name, "in": "header", "required": False, **fields})


def _headers(further: dict[str, str]) -> dict[str, Any]:
    described_headers = {"X-Request-Id": "Id of the request, as in the log.", **further}
    return {
        name: {"description": text, "required": name == "X-Request-Id", "schema": {"type": "string"}}
        for name, text in described_headers.items()
    }


def _error_answers(codes: Iterable[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code][0], []).append(code)
    return {str(status): _error_answer(status, by_status[status]) for status in sorted(by_status)}


def _error_answer(status: int, codes: list[str]) -> dict[str, Any]:
    further = {}
    if status in (429, 503):
        further["Retry-After"] = "Seconds to wait before the next attempt."
    if status == 429:
        further |= _RATE_HEADERS
    if status == 401:
        further["WWW-Authenticate"] = "Authentication scheme of this API."
    return {
        "description": f"{TITLES[status]}: {', '.join(f'`{code}`' for code in codes)}.",
        "headers": _headers(further),
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": _REF.format(name="ProblemDetails")},
                "examples": {code: {"summary": CODES[code][1].meaning, "value": _example_of(code)} for code in codes},
            }
        },
    }


def _example_of(code: str) -> dict[str, Any]:
    status, known = CODES[code]
    example = {
        "type": "about:blank",
        "title": TITLES[status],
        "status": status,
        "detail": known.example,
        "code": code,
        "requestId": "req_3f1c0a9be27d4458a1",
    }
    return example if known.param is None else {**example, "param": known.param}
