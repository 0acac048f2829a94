"""A client that an existing generator makes of `/openapi.json`, used as its users would."""

import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.infra.ids import livekit_room
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.fake_livekit import fake_livekit
from tests.integration.conftest import key_of, serving

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("openapi_python_client") is None,
        reason="openapi-python-client is not installed; it comes with the extra `ci`",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what the generator writes
]
PACKAGE = "relay_client_of_this_test"


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    async with (
        fake_livekit() as livekit,
        serving(msgspec.structs.replace(settings, livekit_api_url=livekit.url)) as url,
    ):
        yield url


@pytest.fixture
async def generated(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{url}/openapi.json"),
        *("--output-path", str(tmp_path / PACKAGE), "--meta", "none", "--fail-on-warning"),
        # It formats what it wrote with ruff, and warns where it finds none.
        env={**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"},  # no I/O
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    monkeypatch.syspath_prepend(str(tmp_path))


def part(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")


@pytest.mark.usefixtures("generated")
async def test_mint_create_list_end(url: str, project: CreatedProject) -> None:
    models = part("models")
    key = key_of(project)["Authorization"].removeprefix("Bearer ")
    async with part("client").AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True) as client:
        await _mint_create_list_end(client, models, project)


async def _mint_create_list_end(client: Any, models: Any, project: CreatedProject) -> None:
    token = await part("api.tokens.create_token").asyncio(
        client=client,
        body=models.TokenRequest(room="lobby", identity="ada", ttl=60, grants=models.Grants(can_publish=False)),
    )
    assert isinstance(token, models.TokenAnswer)
    assert token.room == livekit_room(project.project_id, "live", "lobby")

    body = models.CreateRoom(name="lobby", max_participants=20)
    room = await part("api.rooms.create_room").asyncio(client=client, body=body)
    assert isinstance(room, models.RoomAnswer)
    assert (room.room, room.max_participants) == ("lobby", 20)

    listed = await part("api.rooms.list_rooms").asyncio(client=client)
    assert [each.room for each in listed.rooms] == ["lobby"]

    usage = await part("api.usage.get_usage").asyncio(client=client, period=models.GetUsagePeriod("7d"))
    assert len(usage.daily) == 7

    ended = await part("api.rooms.end_room").asyncio_detailed("lobby", client=client)
    assert ended.status_code == 204
    missing = await part("api.rooms.get_room").asyncio("lobby", client=client)
    assert isinstance(missing, models.ProblemDetails)
    assert missing.code == "room_not_found"


@pytest.mark.usefixtures("generated")
async def test_errors_are_read_too(url: str) -> None:
    body = part("models").TokenRequest(room="lobby", identity="ada")
    async with part("client").AuthenticatedClient(base_url=url, token="sk_live_mistyped") as client:
        problem = await part("api.tokens.create_token").asyncio(client=client, body=body)
    assert (problem.status, problem.code) == (401, "mistyped_key")
