"""Fixtures: a running API on a free port, and a project to use it with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import msgspec
import psycopg
import pytest
import uvicorn
from litestar import Router

from services.api import app as composition_root
from services.api import routes
from services.api.app import create_app
from services.api.http.problem_codes import CODES
from services.api.http.problems import ProblemDetails
from services.api.http.serving.hot_routes import HotRoutes
from services.api.http.serving.http_limits import HttpLimits
from services.api.http.serving.server import server_config
from services.api.portal.passwords.hashing import Passwords
from services.api.tokens import routes as tokens
from services.api.usage import routes as usage
from services.cli.projects import create_project
from services.local.embedded import EmbeddedServers
from shared.infra.clock import DAY_MS, Clock, SystemClock, floor_to
from shared.infra.ids import KeyType, Mode
from shared.infra.postgres.pool import Pool, create_pool, remember_times
from shared.infra.settings import Settings
from shared.livekit.webhook import WebhookSigner
from shared.models.projects import CreatedProject
from tests.conftest import fresh_database, settings_for
from tests.fake_livekit import FakeLiveKit, fake_livekit
from tests.http_clients import loopback_client
from tests.portal_browser import Browser, quick_passwords
from tests.portal_site import PortalSite, RunningPortal


@asynccontextmanager
async def serving(
    settings: Settings,
    clock: Clock | None = None,
    *,
    limits: HttpLimits | None = None,
    own_protocol: bool = True,
    passwords: Passwords | None = None,
) -> AsyncIterator[str]:
    """Run the API under uvicorn in this process. Yields its URL. Hashes of passwords are quick unless given."""
    app = create_app(settings, clock, passwords=passwords or quick_passwords())
    async with running(uvicorn.Server(server_config(app, limits, own_protocol=own_protocol, port=0))) as url:
        yield url


@asynccontextmanager
async def running(server: uvicorn.Server) -> AsyncIterator[str]:
    """Run a server until the end of the block. Yields its URL."""
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(15):
            while not server.started:
                assert not task.done(), "the API did not start"
                await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def serving_started(
    app: HotRoutes, *, limits: HttpLimits | None = None, own_protocol: bool = True
) -> AsyncIterator[str]:
    """Run one more server for an application that another server has started. Yields its URL."""
    config = server_config(app, limits, own_protocol=own_protocol, port=0)
    config.lifespan = "off"
    async with running(uvicorn.Server(config)) as url:
        yield url


async def every_error_is_a_listed_one(answer: httpx.Response) -> None:
    """Assert that an error of the API is a problem with its request's id and a listed code.

    Runs for every answer, whatever the test is about.
    """
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.status_code >= 400 and answer.request.url.path.startswith(("/v1/", "/api/")):
        assert answer.headers["content-type"] == "application/problem+json"
        problem = msgspec.json.decode(await answer.aread(), type=ProblemDetails)
        assert problem.request_id == answer.headers["x-request-id"]
        assert CODES[problem.code][0] == problem.status == answer.status_code


@asynccontextmanager
async def client_of_api(settings: Settings, clock: Clock | None = None) -> AsyncIterator[httpx.AsyncClient]:
    hooks = {"response": [every_error_is_a_listed_one]}
    async with (
        serving(settings, clock) as url,
        loopback_client(url, event_hooks=hooks) as client,
    ):
        yield client


class SetClock:
    """A clock that stands still until a test sets it."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def now_ms(self) -> int:
        return self.at_ms


# For tests of days: neither the day nor the hour ends while they run, and the whole day is past.
LAST_NOON_MS = floor_to(SystemClock().now_ms() - DAY_MS // 2, DAY_MS) + DAY_MS // 2


@pytest.fixture(scope="module")
def api_clock() -> Clock:
    """The clock of the API. A module may override it."""
    return SystemClock()


@pytest.fixture
async def api(settings: Settings, api_clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of_api(settings, api_clock) as client:
        yield client


# An API takes a quarter of a second of CPU to build, and a database a twentieth. A module whose tests need no settings of
# their own overrides two fixtures: `settings` returns `shared_settings`, and `api` returns `shared_api`.
@pytest.fixture(scope="module")
def module_settings(servers: EmbeddedServers, migrated_template: str) -> Iterator[Settings]:
    """Settings with one database for all tests of a module. A module may override them."""
    with fresh_database(servers, migrated_template) as database:
        yield settings_for(database, servers.redis_url)


@pytest.fixture
def shared_settings(module_settings: Settings, redis_url: str) -> Settings:
    """The settings of the module. The test finds an empty database and an empty Redis."""
    with psycopg.connect(module_settings.database.dsn, autocommit=True) as connection:
        connection.execute(_EMPTY_EVERY_TABLE)
    return module_settings


# Deleting a few rows takes a tenth of the time of TRUNCATE, which creates new files for every table. Without triggers and
# foreign keys the order of the tables does not matter.
_EMPTY_EVERY_TABLE = """
DO $$
DECLARE every_table text;
BEGIN
  SET LOCAL session_replication_role = replica;
  FOR every_table IN
    SELECT oid::regclass::text FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
      AND relname !~ '^_?yoyo_'
  LOOP
    EXECUTE 'DELETE FROM ' || every_table;
  END LOOP;
END $$
"""


@pytest.fixture(scope="module")
async def module_api(module_settings: Settings, api_clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one API for all tests of a module."""
    async with client_of_api(module_settings, api_clock) as client:
        yield client


@pytest.fixture
def shared_api(module_api: httpx.AsyncClient, shared_settings: Settings) -> httpx.AsyncClient:
    """The client of the module, after the database has been emptied."""
    return module_api


@pytest.fixture(scope="module")
async def module_livekit() -> AsyncIterator[FakeLiveKit]:
    """One fake LiveKit for all tests of a module."""
    async with fake_livekit() as fake:
        yield fake


@pytest.fixture(scope="module")
async def module_app(module_settings: Settings) -> AsyncIterator[HotRoutes]:
    """One started application for all tests of a module. A test serves it with `serving_started`."""
    app = create_app(module_settings)
    async with running(uvicorn.Server(server_config(app, port=0))):
        yield app


@pytest.fixture
def few_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build applications with the routes for tokens, usage and webhooks only.

    For tests that start applications with different settings. Such an application takes a tenth of the time to build.
    """
    monkeypatch.setattr(routes, "V1", [tokens.create_token, usage.get_usage])
    monkeypatch.setattr(composition_root, "reference_routes", lambda *_: [])
    monkeypatch.setattr(composition_root, "portal_router", lambda _: Router("/portal", route_handlers=[]))


class Standing(NamedTuple):
    """An API and a project."""

    api: httpx.AsyncClient
    project: CreatedProject


@pytest.fixture(scope="module")
async def standing(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[Standing]:
    """One API and project for all tests of a module whose requests are refused or change nothing.

    Starting an API takes much longer than refusing a request.
    """
    with fresh_database(servers, migrated_template) as database:
        project = await create_project(database, "standing")
        async with client_of_api(settings_for(database, servers.redis_url)) as client:
            yield Standing(client, project)


@pytest.fixture(scope="module")
async def running_portal(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[RunningPortal]:
    """One portal with open sign-up for all tests of a module that need no empty instance and no other settings."""
    with fresh_database(servers, migrated_template) as database:
        settings = msgspec.structs.replace(settings_for(database, servers.redis_url), sign_up="open")
        async with (
            serving(settings) as url,
            create_pool(database, "tests", init=remember_times) as opened,
            Browser(url) as root,
        ):
            await root.sign_up("root")
            yield RunningPortal(url, settings, opened)


@pytest.fixture
async def site(running_portal: RunningPortal) -> AsyncIterator[PortalSite]:
    made = PortalSite(running_portal)
    yield made
    await made.close()


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    async with create_pool(settings.database, "tests", init=remember_times) as opened:
        yield opened


@pytest.fixture
async def project(settings: Settings) -> CreatedProject:
    return await create_project(settings.database, "acme")


def key_of(project: CreatedProject, mode: Mode = "live", key_type: KeyType = "secret") -> dict[str, str]:
    """Return the Authorization header of one of a project's keys."""
    key = next(key.key for key in project.keys if key.mode == mode and key.type == key_type)
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def signed(settings: Settings) -> Callable[[bytes], dict[str, str]]:
    """Return a function from a body to the headers that LiveKit sends with it, signed now."""
    import time

    signer = WebhookSigner(settings.livekit_api_key, settings.livekit_api_secret)
    return lambda body: {
        "Authorization": signer.sign(body, now_s=int(time.time())),
        "Content-Type": "application/webhook+json",
    }
