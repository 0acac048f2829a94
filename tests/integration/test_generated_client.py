"""A client that openapi-python-client generates from `/openapi.json`, used as its users would."""

import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import pytest

from services.cli.projects import create_project
from services.local.embedded import EmbeddedServers
from shared.infra.ids import livekit_room
from shared.models.projects import CreatedProject
from tests.conftest import fresh_database, settings_for
from tests.fake_livekit import fake_livekit
from tests.http_clients import loopback_client
from tests.integration.conftest import key_of, serving

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("openapi_python_client") is None,
        reason="openapi-python-client is not installed; it comes with the extra `ci`",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised by generated code
]
PACKAGE = "relay_client_of_this_test"


class ClientSite(NamedTuple):
    """An API with a LiveKit, and a project."""

    url: str
    project: CreatedProject


@pytest.fixture(scope="module")
async def site(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[ClientSite]:
    with fresh_database(servers, migrated_template) as database:
        project = await create_project(database, "acme")
        settings = settings_for(database, servers.redis_url)
        async with (
            fake_livekit() as livekit,
            serving(msgspec.structs.replace(settings, livekit_api_url=livekit.url)) as url,
        ):
            yield ClientSite(url, project)


@pytest.fixture(scope="module")
async def generated(site: ClientSite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """Generate the client once for all tests: the generator takes much longer than they do."""
    directory = tmp_path_factory.mktemp("generated")
    # Fetched by the test, because the generator waits at most five seconds for it.
    async with loopback_client(site.url, timeout=60) as client:
        document = directory / "openapi.json"
        document.write_bytes((await client.get("/openapi.json")).content)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document)),
        *("--output-path", str(directory / PACKAGE), "--meta", "none", "--fail-on-warning"),
        # The generator formats its output with ruff, and warns if it finds none.
        env={**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"},  # no I/O
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        yield


def part(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")


@pytest.mark.usefixtures("generated")
async def test_generated_client_creates_tokens_and_manages_rooms(site: ClientSite) -> None:
    models = part("models")
    key = key_of(site.project)["Authorization"].removeprefix("Bearer ")
    async with part("client").AuthenticatedClient(
        base_url=site.url, token=key, raise_on_unexpected_status=True
    ) as client:
        await _create_list_and_end(client, models, site.project)


async def _create_list_and_end(client: Any, models: Any, project: CreatedProject) -> None:
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
async def test_generated_client_reads_errors(site: ClientSite) -> None:
    body = part("models").TokenRequest(room="lobby", identity="ada")
    async with part("client").AuthenticatedClient(base_url=site.url, token="sk_live_mistyped") as client:
        problem = await part("api.tokens.create_token").asyncio(client=client, body=body)
    assert (problem.status, problem.code) == (401, "mistyped_key")
