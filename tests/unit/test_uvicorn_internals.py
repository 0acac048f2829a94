"""Relay's use of uvicorn's internals: one module, one version."""

import ast
import re
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.api.http.serving import uvicorn_internals
from services.api.http.serving.server import server_config

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_uvicorn_is_the_one_that_the_module_was_written_for() -> None:
    assert uvicorn_internals.differences() == []


def test_pyproject_allows_no_other_version() -> None:
    major, minor = uvicorn_internals.WRITTEN_FOR.split(".")
    wanted = f'"uvicorn>={major}.{minor},<{major}.{int(minor) + 1}"'
    assert wanted in (ROOT / "pyproject.toml").read_text()


def test_no_other_module_imports_uvicorn_s_internals() -> None:
    importing = set()
    for folder in ("services", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and re.match(r"uvicorn\.\w", node.module or ""):
                    importing.add(path.name)
    assert importing == {"uvicorn_internals.py"}


@pytest.mark.parametrize("name", ["on_body", "on_response_complete", "_start_asgi_task", "connection_lost"])
def test_a_method_that_changed_is_noticed_and_uvicorn_s_own_protocol_serves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpToolsProtocol, name, lambda self, something_new: None)
    assert [name in found for found in uvicorn_internals.differences()] == [True]
    assert server_config(lambda: None).http == "httptools"


def test_another_version_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.__version__", "0.55.0")
    assert uvicorn_internals.differences() == ["uvicorn is 0.55.0, not 0.54"]
