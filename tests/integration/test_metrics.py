"""`GET /metrics`, and the heartbeat of a worker."""

import asyncio
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.worker.heartbeat import Heartbeat, new_pulse
from shared.infra import metrics
from shared.infra.clock import SystemClock
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.operations.backlog import Backlog
from shared.operations.queries import workers as queries
from tests.integration.conftest import key_of
from tests.ports import free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


async def scraped(api: httpx.AsyncClient) -> Samples:
    answer = await api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_metrics_have_exactly_one_path(api: httpx.AsyncClient) -> None:
    """A proxy that hides the metrics from the public compares with this path."""
    for path in ("/metrics/", "//metrics", "/%6detrics", "/metrics%2f", "/metrics//"):
        answer = await api.get(str(api.base_url).rstrip("/") + path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert (await api.get("/metrics?")).status_code == 200


async def test_requests_are_counted(
    api: httpx.AsyncClient, project: CreatedProject, signed: Callable[[bytes], dict[str, str]]
) -> None:
    before = await scraped(api)
    for _ in range(3):
        answer = await api.post("/v1/tokens", json={"room": "lobby", "identity": "ann"}, headers=key_of(project))
        assert answer.status_code == 200
    body = b'{"event":"room_started","room":{"sid":"RM_a","name":"elsewhere"},"id":"EV_aaaaaaaaaaaa","createdAt":"1750000000"}'
    assert (await api.post("/api/webhooks/livekit", content=body, headers=signed(body))).status_code == 200
    assert (await api.post("/api/webhooks/livekit", content=body)).status_code == 401
    after = await scraped(api)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("relay_tokens_total", mode="live") == 3
    assert grown("relay_key_lookups_total", source="cache") + grown("relay_key_lookups_total", source="database") == 3
    assert grown("relay_webhooks_total", verdict="kept") == 1
    assert grown("relay_webhooks_total", verdict="missing_signature") == 1
    assert grown("relay_problems_total", code="missing_signature") == 1
    assert grown("relay_intake_group_events_count") == 1
    assert value(after, "relay_pool_connections", state="limit") > 0


async def test_the_backlog_is_reported(settings: Settings, pool: Pool) -> None:
    redis = event_stream.connect_redis(settings.redis_url)
    long_ago = SystemClock().now_ms() - 90_000
    await event_stream.append(redis, [(0, Received(long_ago, b"{}")), (5, Received(long_ago + 1, b"{}"))])
    await Backlog(pool, redis, create_broker(settings.redis_url, []), SystemClock()).measure()
    assert metrics.stream_events._value.get() == 2
    assert 90 <= metrics.stream_oldest_seconds._value.get() < 150
    await redis.aclose()


async def test_a_workers_heartbeat_and_stop_are_stored(settings: Settings, pool: Pool) -> None:
    redis = event_stream.connect_redis(settings.redis_url)
    pulse, clock = new_pulse(), SystemClock()
    backlog = Backlog(pool, redis, create_broker(settings.redis_url, []), clock)
    heartbeat = Heartbeat(pool, redis, backlog, clock, pulse)
    await heartbeat.beat()
    await heartbeat.beat()
    assert pulse.troubles == {}
    async with pool.acquire() as conn:
        (row,) = await queries.workers(conn)
        assert row.stopped_at is None
        assert row.seen_at >= row.started_at
        assert (await queries.waiting_work(conn, clock.now_ms())).workers == 1
        assert (await queries.waiting_work(conn, clock.now_ms() + 60_000)).workers == 0
    await heartbeat.stop()
    async with pool.acquire() as conn:
        (row,) = await queries.workers(conn)
        assert row.stopped_at is not None
        assert (await queries.waiting_work(conn, clock.now_ms())).workers == 0
        await queries.forget_workers(conn, clock.now_ms() + 2 * 86_400_000)
        assert await queries.workers(conn) == []
    await redis.aclose()


async def test_a_heartbeat_without_redis_reports_it(settings: Settings, pool: Pool) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    redis, pulse, clock = event_stream.connect_redis(nowhere), new_pulse(), SystemClock()
    heartbeat = Heartbeat(pool, redis, Backlog(pool, redis, create_broker(nowhere, []), clock), clock, pulse)
    async with asyncio.timeout(15):
        await heartbeat.beat()
    assert list(pulse.troubles) == ["redis"]
    assert metrics.backlog_unknown.labels("redis")._value.get() == 1
    await redis.aclose()
