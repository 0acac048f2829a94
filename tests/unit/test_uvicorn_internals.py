"""Relay's use of uvicorn's internals: one module, one version."""

import ast
import re
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.api.http.serving import uvicorn_internals
from services.api.http.serving.server import server_config

ROOT = Path(__file__).resolve().parents[2]


def test_installed_uvicorn_has_the_expected_internals() -> None:
    assert uvicorn_internals.differences() == []


def test_pyproject_allows_only_the_expected_uvicorn_version() -> None:
    major, minor = uvicorn_internals.WRITTEN_FOR.split(".")
    wanted = f'"uvicorn>={major}.{minor},<{major}.{int(minor) + 1}"'
    assert wanted in (ROOT / "pyproject.toml").read_text()


def test_only_one_module_imports_uvicorn_internals() -> None:
    importing = set()
    for folder in ("services", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and re.match(r"uvicorn\.\w", node.module or ""):
                    importing.add(path.name)
    assert importing == {"uvicorn_internals.py"}


@pytest.mark.parametrize("name", ["on_body", "on_response_complete", "_start_asgi_task", "connection_lost"])
def test_changed_uvicorn_method_falls_back_to_the_standard_protocol(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpToolsProtocol, name, lambda self, something_new: None)
    assert [name in found for found in uvicorn_internals.differences()] == [True]
    assert server_config(lambda: None).http == "httptools"


def test_other_uvicorn_version_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.__version__", "0.55.0")
    assert uvicorn_internals.differences() == ["uvicorn is 0.55.0, not 0.54"]
