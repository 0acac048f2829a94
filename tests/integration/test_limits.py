"""Rate limits over HTTP, with a real Redis and without one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.api.http.access.limits import connect_limits_redis
from services.api.http.access.rate_windows import EXCHANGE_S
from services.cli.keys import create_key
from shared.infra import metrics
from shared.infra.clock import MINUTE_MS, SystemClock, floor_to
from shared.infra.ids import new_key
from shared.infra.settings import RateLimits, Settings
from shared.models.projects import CreatedProject
from tests.http_clients import loopback_client
from tests.integration.conftest import SetClock, key_of, serving

pytestmark = pytest.mark.usefixtures("few_routes")

NONE = RateLimits(tokens_per_key=0, tokens_per_project=0, api_per_key=0, api_per_project=0, unknown_keys=0)
TOKEN = {"room": "lobby", "identity": "ada"}


def limited(settings: Settings, **rates: int) -> Settings:
    return msgspec.structs.replace(settings, rate_limits=msgspec.structs.replace(NONE, **rates))


ClientOf = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def client_of() -> ClientOf:
    """Return a function that runs an API and yields a client for it.

    The API's clock stands at the beginning of a minute: a window that ends during a test would begin a new count.
    """
    clock = SetClock(floor_to(SystemClock().now_ms(), MINUTE_MS))

    @asynccontextmanager
    async def client_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            serving(settings, clock) as url,
            loopback_client(url) as client,
        ):
            yield client

    return client_of


async def mint(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await client.post("/v1/tokens", json=TOKEN, headers=headers)


async def usage(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await client.get("/v1/usage", headers=headers)


def told(answer: httpx.Response) -> dict[str, Any]:
    names = ("limit", "remaining", "policy")
    return {name: answer.headers.get(f"ratelimit-{name}") for name in names}


@pytest.mark.parametrize(("ask", "rate"), [(mint, "tokens_per_key"), (usage, "api_per_key")])
async def test_a_key_is_limited_and_the_headers_show_it(
    settings: Settings, project: CreatedProject, ask: Any, rate: str, client_of: ClientOf
) -> None:
    async with client_of(limited(settings, **{rate: 3})) as client:
        for left in (2, 1, 0):
            answer = await ask(client, key_of(project))
            assert answer.status_code == 200
            assert told(answer) == {"limit": "3", "remaining": str(left), "policy": "3;w=60"}
            assert 0 < int(answer.headers["ratelimit-reset"]) <= 60
        refused = await ask(client, key_of(project))
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["title"]) == (429, "rate_limited", "Too many requests")
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert told(refused)["remaining"] == "0"
        # The other mode of the same project is not affected.
        assert (await ask(client, key_of(project, "test"))).status_code == 200


async def test_other_spellings_of_a_path_have_the_same_limit(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    """The framework routes these to `/v1/tokens`, but would count them as requests of the other kind."""
    async with client_of(limited(settings, tokens_per_key=2)) as client:
        for left, path in enumerate(("//v1/tokens", "/v1/tokens/"), 1):
            answer = await client.post(str(client.base_url).rstrip("/") + path, json=TOKEN, headers=key_of(project))
            assert (answer.status_code, told(answer)["remaining"]) == (200, str(2 - left))
        for path in ("/v1/tokens", "/v1/tokens/", "//v1//tokens", "/v1/tokens%2f"):
            answer = await client.post(str(client.base_url).rstrip("/") + path, json=TOKEN, headers=key_of(project))
            assert answer.status_code == 429, path


@pytest.mark.parametrize(("ask", "rate"), [(mint, "tokens_per_project"), (usage, "api_per_project")])
async def test_the_keys_of_a_project_share_a_limit(
    settings: Settings, project: CreatedProject, ask: Any, rate: str, client_of: ClientOf
) -> None:
    second = await create_key(settings.database, project.project_id, "live", "secret", "second")
    headers = [key_of(project), {"Authorization": f"Bearer {second.key}"}]
    async with client_of(limited(settings, **{rate: 4})) as client:
        codes = [(await ask(client, headers[number % 2])).status_code for number in range(6)]
    assert codes == [200] * 4 + [429] * 2


async def test_requests_refused_for_the_key_do_not_use_the_project_limit(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    second = await create_key(settings.database, project.project_id, "live", "secret", "second")
    async with client_of(limited(settings, api_per_key=2, api_per_project=4)) as client:
        assert [(await usage(client, key_of(project))).status_code for _ in range(6)] == [200] * 2 + [429] * 4
        other = {"Authorization": f"Bearer {second.key}"}
        assert [(await usage(client, other)).status_code for _ in range(3)] == [200] * 2 + [429]


async def test_requests_refused_for_the_project_do_not_use_the_key_limit(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    async with client_of(limited(settings, api_per_project=2, api_per_key=9)) as client:
        assert [(await usage(client, key_of(project))).status_code for _ in range(6)] == [200] * 2 + [429] * 4
    async with client_of(limited(settings, api_per_key=9)) as client:
        # 9 minus the 2 that passed, plus what passes before this process knows the count.
        await until_refused(client, project, usage, within=8)


async def test_a_new_process_loads_the_counts_from_before_its_start(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    """A process sends its last counts when it stops."""
    own = limited(settings, api_per_key=9)
    async with client_of(own) as client:
        assert told(await usage(client, key_of(project)))["remaining"] == "8"
        # An error answer has the headers too.
        wrong = await client.get("/v1/usage?period=never", headers=key_of(project))
        assert (wrong.status_code, told(wrong)["remaining"]) == (400, "7")
    async with client_of(own) as client:
        await until_refused(client, project, usage, within=8)


async def until_refused(client: httpx.AsyncClient, project: CreatedProject, ask: Any, within: int) -> None:
    """Assert that at most ``within`` requests pass, once the process has the counts of the others."""
    deadline = time.monotonic() + 30
    passed = 0
    while (answer := await ask(client, key_of(project))).status_code == 200:
        passed += 1
        assert time.monotonic() < deadline
        await asyncio.sleep(EXCHANGE_S)
    assert (answer.status_code, answer.json()["code"], told(answer)["remaining"]) == (429, "rate_limited", "0")
    assert passed <= within


@pytest.mark.parametrize(("connections", "limit"), [(300, 100), (150, 1), (40, 39)])
async def test_a_burst_of_connections_does_not_exceed_the_limit(
    settings: Settings, project: CreatedProject, client_of: ClientOf, connections: int, limit: int
) -> None:
    """All requests are counted, even on more connections than a Redis client's pool has."""
    other = limited(settings, api_per_key=limit)
    async with client_of(other) as client:
        client.timeout = httpx.Timeout(60)
        assert (
            await usage(client, key_of(project, "test"))
        ).status_code == 200  # the process listens for changes of keys
        answers = await asyncio.gather(*(usage(client, key_of(project)) for _ in range(connections)))
        assert [answer.status_code for answer in answers].count(200) == limit
        assert {answer.status_code for answer in answers} == {200, 429}


async def test_the_redis_client_of_limits_waits_for_a_free_connection(settings: Settings) -> None:
    redis = connect_limits_redis(settings.redis_url)
    try:
        assert await asyncio.gather(*(redis.ping() for _ in range(20))) == [True] * 20
    finally:
        await redis.aclose()


async def test_two_processes_share_their_counts(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    own = limited(settings, tokens_per_key=40, api_per_key=10)
    async with client_of(own) as one, client_of(own) as two:
        assert [(await mint(one, key_of(project))).status_code for _ in range(30)] == [200] * 30
        assert (await mint(two, key_of(project))).status_code == 200
        deadline = time.monotonic() + 20 * EXCHANGE_S
        while True:  # until the second process has the first one's count; each check counts as one request
            answer = await mint(two, key_of(project))
            if answer.status_code == 429 or int(answer.headers["ratelimit-remaining"]) < 10:
                break
            assert time.monotonic() < deadline, "the second process never got the count of the first one's tokens"
            await asyncio.sleep(EXCHANGE_S)
        assert [(await usage(one, key_of(project))).status_code for _ in range(7)] == [200] * 7
        await until_refused(two, project, usage, within=9)  # alone it would admit ten


async def test_an_error_of_a_counted_request_has_the_limit_headers(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    async with client_of(limited(settings, tokens_per_key=9, api_per_key=9)) as client:
        wrong = await client.post("/v1/tokens", json={"room": "a b"}, headers=key_of(project))
        assert (wrong.status_code, told(wrong)["limit"]) == (400, "9")
        wrong = await client.get("/v1/usage?period=never", headers=key_of(project))
        assert (wrong.status_code, told(wrong)["limit"]) == (400, "9")


async def test_no_headers_are_sent_without_a_limit(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    async with client_of(limited(settings)) as client:
        for ask in (mint, usage):
            answer = await ask(client, key_of(project))
            assert answer.status_code == 200
            assert not [name for name in answer.headers if name.startswith("ratelimit")]


async def unchecked(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(s.value for s in samples if s.name == "relay_rate_limits_total" and s.labels == {"verdict": "unchecked"})


async def test_without_redis_each_process_limits_alone_and_metrics_show_it(
    settings: Settings, project: CreatedProject, caplog: pytest.LogCaptureFixture, client_of: ClientOf
) -> None:
    own = msgspec.structs.replace(limited(settings, tokens_per_key=3, api_per_key=8), redis_url="redis://127.0.0.1:1")
    async with client_of(own) as client:
        before = await unchecked(client)
        assert [(await usage(client, key_of(project))).status_code for _ in range(10)] == [200] * 8 + [429] * 2
        assert [(await mint(client, key_of(project))).status_code for _ in range(5)] == [200] * 3 + [429] * 2
        deadline = time.monotonic() + 20
        while await unchecked(client) < before + 8 + 3:
            assert time.monotonic() < deadline, "the metric never counts the requests that Redis does not know"
            await asyncio.sleep(EXCHANGE_S)
    assert "each process applies the rate limits to its own count" in caplog.text


async def test_only_unknown_keys_are_limited_by_address(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    async with client_of(limited(settings, unknown_keys=5)) as client:
        # A key is known once the cache answers it. Lookups while the process starts to listen are not cached.
        before, deadline = metrics.key_lookups["cache"].count, time.monotonic() + 20
        while metrics.key_lookups["cache"].count == before:
            assert time.monotonic() < deadline, "the key never comes from the cache"
            assert (await mint(client, key_of(project))).status_code == 200

        async def unknown(key: str) -> tuple[int, str]:
            answer = await mint(client, {"Authorization": f"Bearer {key}"})
            return answer.status_code, answer.json()["code"]

        again = new_key("live", "secret")
        # Repeating the same wrong key is one lookup, and its answer stays the same.
        assert {await unknown(again) for _ in range(20)} == {(401, "unknown_key")}
        for _ in range(4):
            assert await unknown(new_key("live", "secret")) == (401, "unknown_key")
        answer = await mint(client, {"Authorization": f"Bearer {new_key('live', 'secret')}"})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_unknown_keys")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await mint(client, key_of(project))).status_code == 200
        assert await unknown("sk_live_x") == (401, "mistyped_key")


@pytest.mark.parametrize(("limit", "at_once"), [(60, 200), (1, 50), (5, 5), (7, 8)])
async def test_concurrent_unknown_keys_are_limited_too(
    settings: Settings, project: CreatedProject, client_of: ClientOf, limit: int, at_once: int
) -> None:
    async with client_of(limited(settings, unknown_keys=limit)) as client:
        client.timeout = httpx.Timeout(60)
        before = metrics.key_lookups["database"].count
        keys = [new_key("live", "secret") for _ in range(at_once)]
        answers = await asyncio.gather(*(mint(client, {"Authorization": f"Bearer {key}"}) for key in keys))
        assert metrics.key_lookups["database"].count - before <= limit
        codes = [answer.json()["code"] for answer in answers]
        assert codes.count("unknown_key") <= limit
        # On a slow machine some requests wait too long for their turn.
        assert set(codes) <= {"unknown_key", "too_many_unknown_keys", "store_unavailable"}
        late = await mint(client, {"Authorization": f"Bearer {new_key('live', 'secret')}"})
        assert (late.status_code == 429) == (codes.count("unknown_key") == limit)


async def test_existing_keys_do_not_use_the_limit_of_unknown_keys(
    settings: Settings, project: CreatedProject, client_of: ClientOf
) -> None:
    created = [await create_key(settings.database, project.project_id, "live", "secret", f"{n}") for n in range(8)]
    async with client_of(limited(settings, unknown_keys=4)) as client:
        for key in created:
            assert (await mint(client, {"Authorization": f"Bearer {key.key}"})).status_code == 200


async def test_webhooks_are_never_limited(settings: Settings, signed: Any, client_of: ClientOf) -> None:
    own = limited(settings, tokens_per_key=1, tokens_per_project=1, api_per_key=1, api_per_project=1, unknown_keys=1)
    async with client_of(own) as client:
        for number in range(50):
            body = b'{"id":"EV_%d","event":"room_started"}' % number
            answer = await client.post("/api/webhooks/livekit", content=body, headers=signed(body))
            assert answer.status_code == 200
            assert "ratelimit-limit" not in answer.headers
