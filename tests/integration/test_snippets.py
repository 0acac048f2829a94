"""Every snippet in README and docs works as documented, against a running API.

The test runs all blocks in Python and JavaScript, and those in sh that call curl, page by page, in their order.
If a request is expected to fail, its line says so: ``# 401 …``. ``elsewhere`` behind the language marks a block that
needs more than an API and node: a browser, a container engine, the inside of Relay.
"""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from shared.infra.ids import livekit_room
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.fake_livekit import FakeLiveKit
from tests.integration.conftest import key_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PYTHON, _NODE, _SHELL = ("python", "py"), ("js", "javascript", "mjs"), ("sh", "bash")
_CURL = """curl() { command curl --noproxy '*' -w '%{stderr}status %{http_code}\\n' "$@"; }\n"""
NODE = shutil.which("node")


class Snippet(NamedTuple):
    language: str
    code: str


def snippets(page: str) -> list[Snippet]:
    return [
        Snippet(language, code)
        for language, rest, code in _BLOCK.findall(page)
        if "elsewhere" not in rest.split()
        and (language in (*_PYTHON, *_NODE) or (language in _SHELL and re.search(r"\bcurl\b", code)))
    ]


FOUND = {page.relative_to(ROOT).as_posix(): snippets(page.read_text()) for page in PAGES}


def test_docs_have_snippets_in_each_language() -> None:
    languages = [snippet.language for found in FOUND.values() for snippet in found]
    for kind in (_PYTHON, _NODE, _SHELL):
        assert sum(language in kind for language in languages) >= 3


def needs_node(page: str) -> bool:
    return any(snippet.language in _NODE for snippet in FOUND[page])


def cases() -> list[object]:
    no_node = pytest.mark.skipif(NODE is None, reason="node is not installed; this page has snippets for it")
    return [
        pytest.param(page, marks=[no_node] if needs_node(page) else [], id=page)
        for page, found in FOUND.items()
        if found
    ]


@pytest.fixture(scope="module")
def module_settings(module_settings: Settings, module_livekit: FakeLiveKit) -> Settings:
    return msgspec.structs.replace(module_settings, livekit_api_url=module_livekit.url)


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.mark.parametrize("page", cases())
async def test_snippets_run_as_documented(
    page: str,
    settings: Settings,
    shared_api: httpx.AsyncClient,
    module_livekit: FakeLiveKit,
    project: CreatedProject,
) -> None:
    module_livekit.reset()
    _someone_in_the_lobby(module_livekit, project)
    for snippet in FOUND[page]:
        await _run(snippet, str(shared_api.base_url).rstrip("/"), settings, project)


def _someone_in_the_lobby(livekit: FakeLiveKit, project: CreatedProject) -> None:
    room = livekit_room(project.project_id, "live", "lobby")
    livekit.add_room(room)
    livekit.add_participant(room, "ada")


async def _run(snippet: Snippet, url: str, settings: Settings, project: CreatedProject) -> None:
    code = re.sub(r"https://relay\.example\.com|http://localhost:3000", url, snippet.code)
    code = re.sub(r"^export KEY=.*$", "", code, flags=re.MULTILINE)
    code = code.replace(".venv/bin/relay", f"{sys.executable} -m services.cli.main")
    if snippet.language in _PYTHON:
        command = [sys.executable, "-c", code]
    elif snippet.language in _NODE:
        command = [str(NODE), "--input-type=module", "--eval", code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", _CURL + code]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **_environment(url, settings), "KEY": key_of(project)["Authorization"][7:], "NO_PROXY": "*"},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = (stream.decode() for stream in await asyncio.wait_for(process.communicate(), 60))
    assert process.returncode == 0, f"{snippet.code}\n{output}\n{errors}"
    if snippet.language in _SHELL:
        expected = [
            None if (said := re.search(r"# (\d{3})\b", line)) is None else said[1]
            for line in re.sub(r"\\\n\s*", " ", snippet.code).splitlines()
            if re.search(r"\bcurl\b", line)
        ]
        got = re.findall(r"^status (\d{3})$", errors, re.MULTILINE)
        assert len(got) == len(expected), f"{snippet.code}\n{output}\n{errors}"
        for status, wanted in zip(got, expected, strict=True):
            assert status == wanted or (wanted is None and status.startswith("2")), (
                f"{snippet.code}\n{output}\n{errors}"
            )


def _environment(url: str, settings: Settings) -> dict[str, str]:
    return {
        "DATABASE_URL": settings.database.dsn,
        "REDIS_URL": settings.redis_url,
        "RELAY_API_URL": url,
        "LIVEKIT_URL": settings.livekit_url,
        "LIVEKIT_API_KEY": settings.livekit_api_key,
        "LIVEKIT_API_SECRET": settings.livekit_api_secret,
        "AUTH_SECRET": settings.auth_secret,
    }
