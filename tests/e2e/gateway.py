"""The API in front of a real livekit-server, shared by all tests of rooms.

There is no worker, because these tests use no webhooks.
"""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from livekit import api as livekit_api

from services.cli.projects import create_project
from shared.infra.ids import Mode, livekit_room
from shared.infra.settings import DatabaseUrl, Settings
from shared.models.projects import CreatedProject
from tests.e2e.guest import Guest
from tests.e2e.livekit_server import API_KEY, API_SECRET, LiveKit, binary, livekit_server, unavailable
from tests.integration.conftest import key_of, serving
from tests.ports import free_port


class Gateway(NamedTuple):
    """A client of the API with the secret key of a project, in live mode by default."""

    api: httpx.AsyncClient
    project: CreatedProject
    livekit: LiveKit
    settings: Settings

    async def ask(self, method: str, path: str, mode: Mode = "live", **more: Any) -> httpx.Response:
        return await self.api.request(method, f"/v1{path}", headers=key_of(self.project, mode), **more)

    async def ok(self, method: str, path: str, **more: Any) -> Any:
        answer = await self.ask(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def mint(self, room: str, identity: str, **fields: Any) -> tuple[str, str]:
        """Mint a token. Returns LiveKit's URL and the token."""
        answer = await self.ok("POST", "/tokens", json={"room": room, "identity": identity, **fields})
        return answer["url"], answer["token"]

    async def join(self, room: str, identity: str, **fields: Any) -> Guest:
        guest = Guest(identity)
        await guest.join(*await self.mint(room, identity, **fields))
        return guest

    def name(self, room: str) -> str:
        """Return LiveKit's name of a room."""
        return livekit_room(self.project.project_id, "live", room)

    def livekit_api(self) -> livekit_api.LiveKitAPI:
        return livekit_api.LiveKitAPI(self.livekit.api_url, API_KEY, API_SECRET)


@contextlib.asynccontextmanager
async def open_gateway(database: DatabaseUrl, redis_url: str) -> AsyncIterator[Gateway]:
    """Start both. Without livekit-server or LiveKit's client SDK the test is skipped, or fails in CI."""
    program = binary()
    if find_spec("livekit.rtc") is None:
        unavailable("the livekit package (LiveKit's client SDK) is not installed")
    directory = Path(tempfile.mkdtemp(prefix="relay-test-"))
    try:
        # Nothing listens for webhooks here. LiveKit gives up on each after some seconds, which disturbs no test.
        with livekit_server(program, directory, f"http://127.0.0.1:{free_port()}/") as livekit:
            settings = Settings(
                database=database,
                redis_url=redis_url,
                livekit_url=livekit.url,
                livekit_api_url=livekit.api_url,
                livekit_api_key=API_KEY,
                livekit_api_secret=API_SECRET,
                auth_secret="x" * 32,
                relay_api_url="http://127.0.0.1",
            )
            project = await create_project(database, "acme")
            async with (
                serving(settings) as url,
                httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as api,
            ):
                yield Gateway(api, project, livekit, settings)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
