"""Errors before any handler runs: always a problem with a request id and without internal details."""

from typing import Any

import httpx
import pytest

from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.http_clients import loopback_client
from tests.integration.conftest import Standing, key_of

TOKEN = {"room": "lobby", "identity": "ada"}


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code", "param"),
    [
        ("GET", "/nowhere", {}, 404, "not_found", None),
        ("GET", "/v1/nowhere", {}, 404, "not_found", None),
        ("POST", "/nowhere", {"content": b"\xff"}, 404, "not_found", None),
        ("GET", "/v1/%2e%2e/usage", {}, 404, "not_found", None),
        ("DELETE", "/v1/usage", {}, 405, "method_not_allowed", None),
        ("GET", "/v1/tokens", {}, 405, "method_not_allowed", None),
        ("PUT", "/healthz", {}, 405, "method_not_allowed", None),
        ("POST", "/v1/tokens", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json", None),
        ("POST", "/v1/tokens", {"content": b'{"roomConfig":{"egress":{"a":' + b"[" * 100_000}, 400, "invalid_json", None),
        ("POST", "/v1/tokens", {"data": TOKEN}, 415, "unsupported_media_type", None),
        ("POST", "/v1/tokens", {"content": b"{}", "headers": {"content-type": "text/csv"}}, 415,
         "unsupported_media_type", None),
        ("POST", "/v1/tokens", {"files": {"a": b"b"}}, 415, "unsupported_media_type", None),
        ("POST", "/v1/tokens", {"content": b" " * 262_145}, 413, "payload_too_large", None),
        ("POST", "/v1/tokens?dry=1", {"json": TOKEN}, 400, "unknown_field", "dry"),
        ("POST", "/v1/tokens", {"json": {**TOKEN, "grants": {"canPublishSources": ["camera", 7]}}}, 400,
         "invalid_request", "grants.canPublishSources[1]"),
        ("GET", "/v1/usage?perod=7d", {}, 400, "unknown_field", "perod"),
        ("GET", "/v1/usage?period=7d&period=30d", {}, 400, "invalid_request", "period"),
        ("GET", "/v1/usage?period=8d", {}, 400, "invalid_request", "period"),
        ("GET", "/v1/usage?period=", {}, 400, "invalid_request", "period"),
        ("GET", "/v1/usage?period=%ff", {}, 400, "invalid_request", "period"),
    ],
)  # fmt: skip
async def test_a_refused_request_gets_a_problem_with_code_and_param(
    standing: Standing,
    method: str,
    path: str,
    sent: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    sent = {**sent, "headers": {**key_of(standing.project), **sent.get("headers", {})}}
    answer = await standing.api.request(method, path, **sent)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("param")) == (status, code, param)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert "litestar" not in answer.text.lower()
    if status == 405:
        assert method not in answer.headers["allow"].split(", ")


async def test_json_is_accepted_without_content_type_or_with_a_suffix(
    api: httpx.AsyncClient, project: CreatedProject
) -> None:
    body = b'{"room": "lobby", "identity": "ada"}'
    for given in (
        None,
        "application/json",
        "application/json; charset=utf-8",
        "application/ld+json",
        "Application/JSON",
    ):
        headers = key_of(project) | ({"Content-Type": given} if given else {})
        assert (await api.post("/v1/tokens", content=body, headers=headers)).status_code == 200


async def test_a_request_without_a_key_is_refused_before_validation(api: httpx.AsyncClient) -> None:
    for method, path, sent in (
        ("POST", "/v1/tokens", {"json": {"room": 7}}),
        ("POST", "/v1/tokens?dry=1", {"content": b"{"}),
        ("GET", "/v1/usage?perod=1", {}),
    ):
        answer = await api.request(method, path, **sent)
        assert (answer.status_code, answer.json()["code"]) == (401, "missing_key")
        assert answer.headers["www-authenticate"] == 'Bearer realm="relay"'


async def test_an_internal_error_has_no_details_and_is_logged(
    api: httpx.AsyncClient, project: CreatedProject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("postgresql://relay:hunter2@db/relay")

    monkeypatch.setattr("services.api.usage.routes.usage_for", fail)
    monkeypatch.setattr("services.api.tokens.service.Minter.mint", fail)
    for method, path, json in (("GET", "/v1/usage", None), ("POST", "/v1/tokens", TOKEN)):
        caplog.clear()
        answer = await api.request(method, path, json=json, headers=key_of(project))
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "hunter2" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text


async def test_every_answer_has_a_unique_id_and_is_not_cached(api: httpx.AsyncClient, project: CreatedProject) -> None:
    answers = [
        await api.get("/healthz"),
        await api.get("/v1/usage", headers=key_of(project)),
        await api.post("/v1/tokens", json=TOKEN, headers=key_of(project)),
        await api.post("/v1/tokens", json=TOKEN, headers={"X-Request-Id": "mine"}),
    ]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/sign-in", "/", "/nowhere"]
)
async def test_head_answers_like_get_without_a_body(standing: Standing, path: str) -> None:
    read, asked = await standing.api.get(path), await standing.api.head(path)
    assert (asked.status_code, asked.headers["content-type"]) == (read.status_code, read.headers["content-type"])
    assert asked.content == b""


@pytest.mark.parametrize("path", ["/v1/usage", "/api/webhooks/livekit", "/projects/abc/live"])
async def test_head_is_refused_for_the_api_and_for_streams(standing: Standing, path: str) -> None:
    # Without the hook of the fixture, which reads bodies.
    async with loopback_client(str(standing.api.base_url)) as client:
        assert (await client.head(path)).status_code == 405
