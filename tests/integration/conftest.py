"""A running API on a port of its own, and a project to use it with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn

from services.api.app import create_app
from services.cli.projects import create_project
from shared.ids import KeyType, Mode
from shared.livekit.webhook import WebhookSigner
from shared.models.projects import CreatedProject
from shared.postgres import Pool, create_pool
from shared.settings import Settings


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """The API under uvicorn in this process; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning", lifespan="on"))
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(15):
            while not server.started:
                assert not task.done(), "the API did not start"
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with create_pool(settings.database, "tests") as opened:
        yield opened


@pytest.fixture
async def project(settings: Settings) -> CreatedProject:
    return await create_project(settings.database, "acme")


def key_of(project: CreatedProject, mode: Mode = "live", key_type: KeyType = "secret") -> dict[str, str]:
    """The Authorization header of one of a project's keys."""
    key = next(key.key for key in project.keys if key.mode == mode and key.type == key_type)
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def signed(settings: Settings) -> Callable[[bytes], dict[str, str]]:
    """Headers as LiveKit sends them with a body, signed now."""
    import time

    signer = WebhookSigner(settings.livekit_api_key, settings.livekit_api_secret)
    return lambda body: {
        "Authorization": signer.sign(body, now_s=int(time.time())),
        "Content-Type": "application/webhook+json",
    }
