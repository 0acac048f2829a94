"""`/openapi.json` is complete and exact, and the hot routes behave as it describes."""

import re
from typing import Any

import httpx
import msgspec
import pytest

from services.api.app import create_app
from services.api.http.problem_codes import CODES
from services.api.tokens.schemas import MAX_TTL_S, TokenRequest
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.integration.conftest import key_of


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


@pytest.fixture(scope="module")
async def document(module_api: httpx.AsyncClient) -> Any:
    answer = await module_api.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def everything(value: Any, kind: str) -> list[Any]:
    """Return all values of a key, at any depth."""
    found: list[Any] = []
    if isinstance(value, dict):
        found += [item for key, item in value.items() if key == kind]
        value = list(value.values())
    return found + [more for item in value for more in everything(item, kind)] if isinstance(value, list) else found


async def test_every_operation_is_described_in_full(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    known_tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert set(operation["tags"]) <= known_tags, where
        secured = path.startswith("/v1/")
        assert operation.get("security", []) == (
            [{"secretKey": []}] if secured else [{"livekitSignature": []}] if path.startswith("/api/") else []
        ), where
        for status, answer in operation["responses"].items():
            assert "X-Request-Id" in answer["headers"], f"{where} {status}"
            assert not answer["description"].startswith("Request fulfilled"), f"{where} {status}"
            if int(status) >= 400 and path != "/readyz":
                content = answer["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
                for code, example in content["examples"].items():
                    assert (str(CODES[code][0]), example["value"]["code"]) == (status, code)
        if secured:
            assert {"400", "401", "403", "429", "500", "503"} <= operation["responses"].keys(), where
            assert "Retry-After" in operation["responses"]["429"]["headers"], where
        if "requestBody" in operation and secured:
            assert {"413", "415"} <= operation["responses"].keys(), where
            assert "example" in operation["requestBody"]["content"]["application/json"], where
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{where} {parameter['name']}"


async def test_every_reference_resolves_and_every_schema_is_used(document: Any) -> None:
    references = set(everything(document, "$ref"))
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references == schemas


async def test_every_field_has_a_description(document: Any) -> None:
    fields = [
        (name, field, of_field)
        for name, schema in document["components"]["schemas"].items()
        for field, of_field in schema.get("properties", {}).items()
    ]
    assert [f"{name}.{field}" for name, field, of_field in fields if not of_field.get("description")] == []


async def test_patterns_are_valid_in_javascript(document: Any) -> None:
    patterns = [pattern for pattern in everything(document, "pattern") if isinstance(pattern, str)]
    assert patterns
    for pattern in patterns:
        assert not re.search(r"\\[AZz]|\(\?P", pattern), pattern


async def test_limits_and_defaults_of_a_token_request(document: Any) -> None:
    schemas = document["components"]["schemas"]
    request = schemas["TokenRequest"]
    assert request["required"] == ["room", "identity"]
    assert request["additionalProperties"] is False
    room = request["properties"]["room"]
    assert (room["pattern"], room["maxLength"]) == ("^[A-Za-z0-9._:-]{1,128}$", 128)
    ttl = request["properties"]["ttl"]
    assert (ttl["default"], ttl["anyOf"][0]["minimum"]) == (3600, 1)
    assert str(MAX_TTL_S) in ttl["description"]
    assert schemas["Grants"]["properties"]["canPublish"] == {
        "type": "boolean", "default": True, "description": "Publish audio and video.",
    }  # fmt: skip
    assert schemas["TokenAnswer"]["required"] == ["token", "url", "room", "identity", "expiresAt"]


BODIES: list[Any] = [
    {"room": "lobby", "identity": "ada"},
    {"room": "lobby", "identity": "ada", "ttl": 5, "grants": {"hidden": True}, "roomConfig": {"maxParticipants": 2}},
    {"room": "lobby"},
    {"room": "a b", "identity": "ada"},
    {"room": "lobby", "identity": "ada", "ttl": "5"},
    {"room": "lobby", "identity": "ada", "grants": {"canPubish": False}},
    {"room": "lobby", "identity": "ada", "roomConfig": {"egress": {"x": 1}}},
    [],
    None,
]


@pytest.mark.parametrize("body", BODIES)
async def test_hot_path_and_framework_answer_a_token_request_the_same(
    api: httpx.AsyncClient, project: CreatedProject, body: Any
) -> None:
    """A path with a slash at the end is no hot path: the framework answers it as the document describes."""
    hot, declared = [await api.post(path, json=body, headers=key_of(project)) for path in ("/v1/tokens", "/v1/tokens/")]
    assert hot.status_code == declared.status_code
    changing = {"token", "expiresAt", "requestId"}
    assert {k: v for k, v in hot.json().items() if k not in changing} == {
        k: v for k, v in declared.json().items() if k not in changing
    }
    assert hot.json().keys() == declared.json().keys()
    for name in ("content-type", "cache-control", "x-content-type-options"):
        assert hot.headers[name] == declared.headers[name]


async def test_hot_path_and_framework_answer_a_webhook_the_same(api: httpx.AsyncClient, signed: Any) -> None:
    body = b'{"event":"room_started","id":"EV_1"}'
    for headers in (signed(body), signed(b"another"), {}, {"Authorization": "x"}):
        hot, declared = [
            await api.post(path, content=body, headers=headers)
            for path in ("/api/webhooks/livekit", "/api/webhooks/livekit/")
        ]
        assert hot.status_code == declared.status_code
        assert {**hot.json(), "requestId": ""} == {**declared.json(), "requestId": ""}


async def test_the_example_of_the_token_request_is_valid(document: Any, settings: Settings) -> None:
    """Examples are shown to users.

    Schemathesis sends them too, but does not report an example that a rule refuses.
    """
    example = next(
        operation["requestBody"]["content"]["application/json"]["example"]
        for _, path, operation in operations(document)
        if path == "/v1/tokens"
    )
    assert msgspec.convert(example, TokenRequest).room == "lobby"
    assert create_app(settings) is not None
