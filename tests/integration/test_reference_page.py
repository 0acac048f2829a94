"""The page `/docs` shows the whole OpenAPI document, without scripts or external resources."""

import re
from html import unescape
from typing import Any

import httpx
import pytest

from services.api.reference.page import example_of
from shared.infra.settings import Settings
from tests.integration.test_openapi import operations


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


@pytest.fixture
async def page(api: httpx.AsyncClient) -> httpx.Response:
    answer = await api.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer


async def test_page_shows_every_operation_with_its_errors_and_parameters(
    api: httpx.AsyncClient, page: httpx.Response
) -> None:
    document = (await api.get("/openapi.json")).json()
    text = unescape(page.text)
    for method, path, operation in operations(document):
        article = text.partition(f'<h3 id="{operation["operationId"]}">')[2].partition("</article>")[0]
        assert f"<code>{path}</code>" in article, f"{method} {path}"
        for answer in operation["responses"].values():
            for code in answer.get("content", {}).get("application/problem+json", {}).get("examples", {}):
                assert f"<code>{code}</code>" in article
        for parameter in operation.get("parameters", []):
            assert f"<code>{parameter['name']}</code>" in article
    assert "grants.canPublishSources" in text
    assert "roomConfig.agents[].agentName" in text


async def test_page_loads_no_script_and_nothing_from_other_sites(api: httpx.AsyncClient, page: httpx.Response) -> None:
    assert "<script" not in page.text
    assert " style=" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'")
    assert "unsafe" not in policy
    assert re.findall(r'(?:src|href)="([^"#][^"]*)"', page.text) == ["/docs/reference.css", "/docs", "/openapi.json"]
    style = await api.get("/docs/reference.css")
    assert style.headers["content-type"].startswith("text/css")
    assert "url(" not in style.text
    assert "@import" not in style.text
    anchors = set(re.findall(r'href="#([^"]+)"', page.text))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page.text))


async def test_example_answers_have_every_required_field(api: httpx.AsyncClient) -> None:
    document: Any = (await api.get("/openapi.json")).json()
    for name, schema in document["components"]["schemas"].items():
        example = example_of(schema, document)
        assert set(schema.get("required", [])) <= example.keys(), name
