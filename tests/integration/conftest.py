"""A running API on a port of its own, and a project to use it with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
import uvicorn

from services.api.app import create_app
from services.api.problem_codes import CODES
from services.api.problems import ProblemDetails
from services.api.server import server_config
from services.cli.projects import create_project
from shared.clock import Clock
from shared.ids import KeyType, Mode
from shared.livekit.webhook import WebhookSigner
from shared.models.projects import CreatedProject
from shared.postgres import Pool, create_pool
from shared.settings import Settings


@asynccontextmanager
async def serving(settings: Settings, clock: Clock | None = None) -> AsyncIterator[str]:
    """The API under uvicorn in this process; yields its URL."""
    server = uvicorn.Server(server_config(create_app(settings, clock), port=0))
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


async def every_error_is_a_listed_one(answer: httpx.Response) -> None:
    """Whatever a test is about: an error of the API is a problem with the id of its request and a code that is listed."""
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.status_code >= 400 and answer.request.url.path.startswith(("/v1/", "/api/")):
        assert answer.headers["content-type"] == "application/problem+json"
        problem = msgspec.json.decode(await answer.aread(), type=ProblemDetails)
        assert problem.request_id == answer.headers["x-request-id"]
        assert CODES[problem.code].status == problem.status == answer.status_code


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    hooks = {"response": [every_error_is_a_listed_one]}
    async with (
        serving(settings) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=20, event_hooks=hooks) as client,
    ):
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
