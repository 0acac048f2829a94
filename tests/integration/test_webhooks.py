"""Every answer of the webhook intake, and where the event is stored afterwards."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from services.api.webhooks import routes as webhooks
from services.worker.drain import drain_inbox
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings, parse_database_url
from shared.livekit.webhook import WebhookSigner
from tests.http_clients import loopback_client
from tests.integration.conftest import serving
from tests.redis_cluster import Node

PATH = "/api/webhooks/livekit"
Signed = Callable[[bytes], dict[str, str]]


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


async def waiting(settings: Settings) -> int:
    redis = event_stream.connect_redis(settings.redis_url)
    try:
        return sum([await redis.xlen(event_stream.stream_key(p)) for p in range(event_stream.PARTITIONS)])
    finally:
        await redis.aclose()


@pytest.mark.parametrize(
    "body",
    [
        b'{"event":"room_started","id":"EV_1","createdAt":"1795000000","room":{"sid":"RM_1","name":"nobody"}}',
        b'{"event":"invented_tomorrow","id":"EV_2","newField":{"a":[1]}}',
        b"no json at all",
        b"\xff\x00\xfe",
        b"",
        b'{"room":{"name":7}}',
        b"[" * 100_000,
    ],
)
async def test_every_body_that_livekit_signed_is_kept(
    api: httpx.AsyncClient, settings: Settings, signed: Signed, body: bytes
) -> None:
    answer = await api.post(PATH, content=body, headers=signed(body))
    assert answer.status_code == 200
    assert await waiting(settings) == 1


async def test_invalid_signatures_are_401_and_keep_nothing(
    api: httpx.AsyncClient, settings: Settings, signed: Signed
) -> None:
    body, now = b'{"event":"room_started"}', int(time.time())
    forger, stranger = WebhookSigner("devkey", "another secret"), WebhookSigner("otherkey", "secret")
    real = WebhookSigner("devkey", "secret")
    cases = {
        "missing_signature": None,
        "bad_signature": forger.sign(body, now_s=now),
        "wrong_api_key": stranger.sign(body, now_s=now),
        "expired": real.sign(body, now_s=now - 361),
        "not_yet_valid": real.sign(body, now_s=now + 120),
        "body_mismatch": real.sign(b"another body", now_s=now),
        "malformed_signature": real.sign(body, now_s=now)[:-20].rpartition(".")[0],
    }
    for code, authorization in cases.items():
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await api.post(PATH, content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["requestId"] == answer.headers["x-request-id"]
        assert "secret" not in answer.text.replace("LIVEKIT_API_SECRET", "")
    assert await waiting(settings) == 0


async def test_an_oversized_webhook_is_413(
    api: httpx.AsyncClient, settings: Settings, pool: Pool, signed: Signed
) -> None:
    exact, over = b" " * webhooks.BODY_LIMIT, b" " * (webhooks.BODY_LIMIT + 1)
    assert (await api.post(PATH, content=exact, headers=signed(exact))).status_code == 200
    answer = await api.post(PATH, content=over, headers=signed(over))
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    async with pool.acquire() as conn:
        assert await drain_inbox(conn) == 1
    assert await waiting(settings) == 0


async def test_another_method_is_405(api: httpx.AsyncClient) -> None:
    answer = await api.get(PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.usefixtures("few_routes")
async def test_without_redis_the_inbox_keeps_the_event(settings: Settings, pool: Pool, signed: Signed) -> None:
    body = b'{"event":"room_started","id":"EV_1","createdAt":"1795000000","room":{"sid":"RM_1","name":"nobody"}}'
    without_redis = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    async with serving(without_redis) as url, loopback_client(url) as client:
        assert (await client.post(PATH, content=body, headers=signed(body))).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
    async with pool.acquire() as conn:
        assert await drain_inbox(conn) == 1


@pytest.mark.usefixtures("few_routes")
async def test_a_silent_redis_costs_one_time_out_and_not_one_per_webhook(
    settings: Settings, pool: Pool, signed: Signed
) -> None:
    bodies = [b'{"event":"room_started","id":"EV_%d","room":{"sid":"RM_1","name":"nobody"}}' % n for n in range(20)]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts connections, but no process answers
        without_redis = msgspec.structs.replace(settings, redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        async with (
            serving(without_redis) as url,
            loopback_client(url) as client,
        ):
            began = time.monotonic()
            for body in bodies:
                assert (await client.post(PATH, content=body, headers=signed(body))).status_code == 200
            # One time-out for each of the twenty would take twice as long.
            assert time.monotonic() - began < len(bodies) / 2 * event_stream.SOCKET_TIMEOUT_S
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM webhook_inbox") == len(bodies)


@pytest.mark.usefixtures("few_routes")
async def test_redis_is_used_again_after_it_returns(settings: Settings, signed: Signed, short_tmp: Path) -> None:
    body = b'{"event":"room_started","id":"EV_1","createdAt":"1795000000","room":{"sid":"RM_1","name":"nobody"}}'
    server = Node(short_tmp / "returning", {"cluster-enabled": "no"})
    returning = msgspec.structs.replace(settings, redis_url=f"redis://127.0.0.1:{server.port}/0")
    try:
        async with serving(returning) as url, loopback_client(url) as client:
            assert (await client.post(PATH, content=body, headers=signed(body))).status_code == 200
            await asyncio.to_thread(server.start)
            deadline = time.monotonic() + 20
            while await waiting(returning) == 0:
                assert time.monotonic() < deadline, "webhooks still go to the inbox"
                assert (await client.post(PATH, content=body, headers=signed(body))).status_code == 200
                await asyncio.sleep(0.05)
    finally:
        server.kill()
        server.client.close()


@pytest.mark.usefixtures("few_routes")
async def test_without_redis_and_postgres_livekit_must_retry(settings: Settings, signed: Signed) -> None:
    body = b'{"event":"room_started"}'
    nowhere = parse_database_url("postgresql://postgres@127.0.0.1:1/none")
    alone = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0", database=nowhere)
    async with serving(alone) as url, loopback_client(url) as client:
        answer = await client.post(PATH, content=body, headers=signed(body))
        assert (answer.status_code, answer.json()["code"]) == (503, "event_not_kept")
        assert int(answer.headers["retry-after"]) > 0
        assert (await client.get("/healthz")).status_code == 200
