"""`relay doctor` against running, missing and misconfigured parts."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import msgspec
import pytest

from services.cli.doctor.command import examine, printed
from services.cli.doctor.finding import Finding
from services.cli.doctor.network import check_own_address
from shared.events.queries.events import record_progress
from shared.infra import metrics
from shared.infra.clock import SystemClock, from_ms
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings, inherited_environment
from shared.models.operations import WorkerRow
from shared.models.received import Received
from shared.operations.queries import workers as queries
from tests.integration.conftest import serving
from tests.ports import free_port

LiveKitAnswer = tuple[int, bytes]
_KNOWN = (200, b"")  # an empty ListRoomsResponse in protobuf


@asynccontextmanager
async def livekit(answer: LiveKitAnswer = _KNOWN, skew_s: float = 0.0) -> AsyncIterator[str]:
    """Run a server that answers every request like LiveKit's Twirp, with an optional clock skew."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        await reader.readexactly(length)
        status, body = answer if head.startswith(b"POST") else (200, b"OK")
        date = formatdate(SystemClock().now_ms() / 1000 + skew_s, usegmt=True)
        writer.write(
            f"HTTP/1.1 {status} X\r\ndate: {date}\r\ncontent-type: application/protobuf\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def levels(findings: list[Finding]) -> dict[str, str]:
    """Return the worst level of each check."""
    order = ("ok", "note", "warning", "error")
    worst: dict[str, str] = {}
    for finding in findings:
        worst[finding.check] = max(worst.get(finding.check, "ok"), finding.level, key=order.index)
    return worst


async def beating(pool: Pool) -> None:
    now = from_ms(SystemClock().now_ms())
    async with pool.acquire() as conn:
        await queries.beat(conn, WorkerRow("w", "host", 1, "0", now, now, None))


@pytest.mark.usefixtures("few_routes")
async def test_a_healthy_instance_has_no_findings(settings: Settings, pool: Pool) -> None:
    await beating(pool)
    async with pool.acquire() as conn:
        await record_progress(conn, 0, SystemClock().now_ms() - 5000)
    before = +Counter(metrics.webhooks.counts())
    async with serving(settings) as url, livekit() as livekit_url:
        report = await examine(msgspec.structs.replace(settings, relay_api_url=url, livekit_api_url=livekit_url))
    assert report.ok, printed(report)
    # The doctor's probe does not count as a refused webhook, so it raises no alarm.
    assert +Counter(metrics.webhooks.counts()) - before == Counter(probe=1)
    assert levels(report.findings) == {
        "settings": "note",  # the development pair
        "postgres": "ok",
        "migrations": "ok",
        "worker": "ok",
        "webhook": "ok",
        "redis": "ok",
        "redis durability": "ok",
        "backlog": "ok",
        "livekit": "ok",
        "clock": "ok",
        "api": "ok",
        "webhook address": "ok",
    }
    assert printed(report).endswith("errors: 0, warnings: 0")


async def test_each_unreachable_part_is_an_error(settings: Settings) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    dead = msgspec.structs.replace(
        settings,
        database=msgspec.structs.replace(settings.database, dsn=f"postgresql://relay@127.0.0.1:{free_port()}/relay"),
        redis_url=f"redis://127.0.0.1:{free_port()}/0",
        livekit_api_url=nowhere,
        relay_api_url=nowhere,
    )
    report = await examine(dead)
    assert not report.ok
    worst = levels(report.findings)
    assert {check for check, level in worst.items() if level == "error"} == {"postgres", "redis", "livekit", "api"}
    assert all(finding.advice for finding in report.findings if finding.level in ("warning", "error"))


async def test_backlog_missing_worker_and_redis_durability_are_reported(settings: Settings, pool: Pool) -> None:
    redis = event_stream.connect_redis(settings.redis_url)
    await event_stream.append(redis, [(0, Received(SystemClock().now_ms() - 120_000, b"{}"))])
    await redis.config_set("appendfsync", "everysec")
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        report = await examine(settings)
    finally:
        await redis.config_set("appendfsync", "always")
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.aclose()
    worst = levels(report.findings)
    assert (worst["backlog"], worst["worker"], worst["webhook"]) == ("error", "error", "warning")
    durability = [finding.advice for finding in report.findings if finding.check == "redis durability"]
    assert durability == ["set `appendonly yes` and `appendfsync always`", "set `maxmemory-policy noeviction`"]


@pytest.mark.parametrize(("skew_s", "level"), [(0, "ok"), (-20, "warning"), (300, "error")])
async def test_livekit_clock_skew_is_reported(settings: Settings, skew_s: float, level: str) -> None:
    async with livekit(skew_s=skew_s) as url:
        report = await examine(msgspec.structs.replace(settings, livekit_api_url=url))
    assert levels(report.findings)["clock"] == level


async def test_a_failing_database_query_is_one_finding(settings: Settings, pool: Pool) -> None:
    """The other findings are still reported."""
    await pool.execute("ALTER TABLE fold_progress RENAME TO away")
    async with livekit() as url:
        report = await examine(msgspec.structs.replace(settings, livekit_api_url=url))
    found = levels(report.findings)
    assert (found["postgres"], found["redis"], found["livekit"]) == ("error", "ok", "ok")
    assert 'relation "fold_progress" does not exist' in printed(report)


@pytest.mark.usefixtures("few_routes")
async def test_inside_a_container_the_api_is_checked_at_its_internal_url(settings: Settings) -> None:
    """`localhost` inside a container is the container itself, not the public address."""
    nowhere = f"http://localhost:{free_port()}"
    async with serving(settings) as url:
        inside = msgspec.structs.replace(settings, relay_api_url=nowhere, relay_internal_url=url)
        found = levels(await check_own_address(inside, SystemClock().now_ms()))
    assert found == {"api": "ok", "webhook address": "ok", "public address": "note"}


@pytest.mark.usefixtures("few_routes")
@pytest.mark.parametrize(
    ("internal", "public", "expected"),
    [
        ("api", "nowhere", {"api": "ok", "webhook address": "ok", "public address": "warning"}),
        ("nowhere", "api", {"api": "error", "public address": "warning"}),  # the api itself serves /metrics
        ("api", "other", {"api": "ok", "webhook address": "ok", "public address": "error"}),
    ],
)
async def test_internal_and_public_address_are_distinguished(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, internal: str, public: str, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(
        "services.cli.doctor.network.is_local", lambda url: False
    )  # the public address is on loopback here
    other = msgspec.structs.replace(settings, livekit_api_secret="another secret")
    async with serving(settings) as url, serving(other) as other_url:
        addresses = {"api": url, "other": other_url, "nowhere": f"http://127.0.0.1:{free_port()}"}
        asked = msgspec.structs.replace(
            settings, relay_internal_url=addresses[internal], relay_api_url=addresses[public]
        )
        found = levels(await check_own_address(asked, SystemClock().now_ms()))
    assert found == expected


async def test_refused_livekit_credentials_are_an_error(settings: Settings) -> None:
    async with livekit((401, b"invalid API key")) as url:
        report = await examine(msgspec.structs.replace(settings, livekit_api_url=url))
    (finding,) = [finding for finding in report.findings if finding.check == "livekit"]
    assert (finding.level, "refuses the credentials of this instance" in finding.fact) == ("error", True)


@pytest.mark.usefixtures("few_routes")
async def test_an_api_with_another_livekit_secret_is_an_error(settings: Settings) -> None:
    async with serving(settings) as url:
        other = msgspec.structs.replace(settings, relay_api_url=url, livekit_api_secret="another secret")
        report = await examine(other)
    (finding,) = [finding for finding in report.findings if finding.check == "webhook address"]
    assert (finding.level, "another LiveKit key pair" in finding.fact) == ("error", True)


def test_the_command_reports_invalid_settings() -> None:
    environment = {k: v for k, v in inherited_environment({}).items() if not k.startswith(("LIVEKIT", "RELAY"))}
    environment |= {"RELAY_DATA_DIR": "/nonexistent/relay", "DATABASE_URL": "x"}
    command = [sys.executable, "-m", "services.cli.main", "doctor", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    report = json.loads(ended.stdout)
    assert not report["ok"]
    assert any(finding["fact"].startswith("DATABASE_URL must start with") for finding in report["findings"])
