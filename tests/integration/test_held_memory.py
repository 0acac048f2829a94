"""Memory limits for clients without a key: bodies, pipelined requests, answers, connections."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.api.http.serving.hot_routes import HotRoutes
from services.api.http.serving.http_limits import FREE_BYTES, BodyBudget, HttpGuard, HttpLimits
from services.api.http.serving.server import Drain, Server, server_config
from services.api.tokens import routes as tokens
from services.api.webhooks import routes as webhooks
from shared.infra import metrics
from shared.infra.ids import new_key
from shared.infra.settings import Settings
from shared.livekit.webhook import WebhookSigner
from shared.models.projects import CreatedProject
from tests.integration.conftest import key_of, running, serving_started
from tests.integration.test_hot_protocol import Signed, connected, request, until

TOKENS, WEBHOOKS = "/v1/tokens", "/api/webhooks/livekit"
SMALL = HttpLimits(
    headers_s=5, request_s=5, sweep_s=0.05, bodies_bytes=600_000, unknown_bodies_bytes=200_000, unread_bytes=300_000
)


def head(path: str, headers: dict[str, str], length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: relay", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()


@asynccontextmanager
async def guarded(app: HotRoutes, limits: HttpLimits) -> AsyncIterator[tuple[str, Server, HttpGuard]]:
    """Serve a started application as a process does. Yields the URL, the server, and the guard of its connections."""
    config = server_config(app, limits, port=0)
    config.lifespan = "off"
    http: Any = config.http
    server = Server(config, Drain(), drain_s=0)
    async with running(server) as url:
        yield url, server, http.keywords["guard"]


@pytest.fixture(scope="module")
def settings(module_settings: Settings) -> Settings:
    """The settings of the shared application. Each test has its own project."""
    return module_settings


NOW = int(time.time())
FORGED = {
    "missing_signature": {},
    "malformed_signature": {"Authorization": "a.b"},
    "bad_signature": {"Authorization": WebhookSigner("devkey", "another secret").sign(b"x", now_s=NOW)},
    "wrong_api_key": {"Authorization": WebhookSigner("otherkey", "secret").sign(b"x", now_s=NOW)},
    "expired": {"Authorization": WebhookSigner("devkey", "secret").sign(b"x", now_s=NOW - 1000)},
    "not_yet_valid": {"Authorization": WebhookSigner("devkey", "secret").sign(b"x", now_s=NOW + 5000)},
}
NO_KEY = {
    "missing_key": {},
    "malformed_key": {"Authorization": "Bearer nothing"},
    "mistyped_key": {"Authorization": "Bearer " + new_key("live", "secret")[:-1] + "!"},
    "unknown_key": {"Authorization": "Bearer " + new_key("live", "secret")},
}


@pytest.mark.parametrize("own_protocol", [True, False])
@pytest.mark.parametrize("size", [1000, 200_000, 9 * 1024 * 1024])
async def test_an_unauthenticated_request_is_refused_before_its_body(
    module_app: HotRoutes, own_protocol: bool, size: int
) -> None:
    """Both protocols refuse a body of any size. The connection stays usable when the body arrives later."""
    cases = [(WEBHOOKS, code, headers) for code, headers in FORGED.items()]
    cases += [(path, code, headers) for code, headers in NO_KEY.items() for path in (TOKENS, "/v1/rooms")]
    async with serving_started(module_app, own_protocol=own_protocol) as url:
        for path, code, headers in cases:
            async with connected(url) as wire:
                wire.writer.write(head(path, headers, size))
                answer = await wire.answer()
                assert (answer.status, code in answer.body.decode()) == (401, True), (path, code)
                assert b"x-request-id: req_" in answer.head
                if size == 200_000:
                    wire.writer.write(b"x" * size + head(path, headers, 10))
                    assert (await wire.answer()).status == 401


@pytest.mark.parametrize("own_protocol", [True, False])
async def test_a_too_large_content_length_is_refused_before_the_body(
    module_app: HotRoutes, project: CreatedProject, signed: Signed, own_protocol: bool
) -> None:
    async with serving_started(module_app, own_protocol=own_protocol) as url:
        for path, headers, limit in (
            (WEBHOOKS, signed(b"x"), webhooks.BODY_LIMIT),
            (TOKENS, key_of(project), tokens.BODY_LIMIT),
            ("/v1/rooms", {**key_of(project), "Content-Type": "application/json"}, tokens.BODY_LIMIT),
        ):
            async with connected(url) as wire:
                wire.writer.write(head(path, headers, limit + 1))
                answer = await wire.answer()
                assert (answer.status, b"payload_too_large" in answer.body) == (413, True), path


@pytest.mark.parametrize("path", [WEBHOOKS, TOKENS])
@pytest.mark.parametrize("size", [20_000, 100_000])
async def test_a_body_in_two_parts_is_accepted(
    module_app: HotRoutes, project: CreatedProject, signed: Signed, path: str, size: int
) -> None:
    body = b'{"room":"lobby","identity":"ada","metadata":"%b"}' % (b"x" * 10_000) + b" " * size
    headers = signed(body) if path == WEBHOOKS else key_of(project)
    async with serving_started(module_app) as url, connected(url) as wire:
        for _ in range(2):  # the second time the key is cached
            wire.writer.write(head(path, headers, len(body)) + body[:5000])
            await asyncio.sleep(0)
            await wire.writer.drain()
            wire.writer.write(body[5000:])
            assert (await wire.answer()).status == 200


async def test_bodies_of_unknown_clients_do_not_block_known_clients(
    module_app: HotRoutes, project: CreatedProject, signed: Signed
) -> None:
    form = head("/sign-in", {"Content-Type": "application/x-www-form-urlencoded"}, 60_000) + b"x" * 59_999
    async with guarded(module_app, SMALL) as (url, running, guard):
        waiting = [await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(12)]
        for _, writer in waiting:
            writer.write(form)
        async with asyncio.timeout(10):
            refused = [asyncio.create_task(reader.readuntil(b"\r\n\r\n")) for reader, _ in waiting]
            done, pending = await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)
            while len(pending) > 4:
                more, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                done |= more
        for task in done:
            assert b" 503 " in task.result()
            assert b"retry-after: " in task.result()
        assert guard.bodies.unknown <= SMALL.unknown_bodies_bytes
        body = b'{"room":"lobby","identity":"ada"}'
        async with connected(url) as wire:
            wire.writer.write(request(TOKENS, key_of(project), body))
            assert (await wire.answer()).status == 200
            event = b"e" * 300_000
            wire.writer.write(request(WEBHOOKS, signed(event), event))
            assert (await wire.answer()).status == 200
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for _, writer in waiting:
            writer.close()
        await until(lambda: not running.server_state.connections)
        assert (guard.bodies.used, guard.bodies.unknown) == (0, 0)


async def test_pipelined_requests_are_read_in_bounded_numbers(module_app: HotRoutes) -> None:
    """A request of 18 bytes becomes objects of 3000 bytes, so one write of 64 kB would hold 11 MB."""
    async with guarded(module_app, HttpLimits(sweep_s=0.05)) as (url, running, _), connected(url) as wire:
        wire.writer.write(b"GET / HTTP/1.1\r\n\r\n" * 3_000)
        await wire.writer.drain()
        connections: Any = running.server_state.connections
        most = answered = 0
        async with asyncio.timeout(60):
            while answered < 3_000:
                await wire.answer()
                answered += 1
                most = max(most, *(len(each.pipeline) for each in connections))
    assert most <= 200


@pytest.mark.parametrize("page", [b"/docs", b"/openapi.json"])
async def test_clients_that_never_read_their_answers_are_disconnected(module_app: HotRoutes, page: bytes) -> None:
    limits = HttpLimits(sweep_s=0.05, write_s=0.5)
    async with guarded(module_app, limits) as (url, running, _):
        clients = []
        for _ in range(5):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", int(url.rpartition(":")[2])))
            await asyncio.get_running_loop().sock_sendall(client, b"GET %b HTTP/1.1\r\nhost: r\r\n\r\n" % page * 20)
            clients.append(client)
        await until(lambda: len(running.server_state.connections) == 5)
        await until(lambda: not running.server_state.connections)
        for client in clients:
            client.close()


async def test_the_total_of_unread_answers_is_bounded(module_app: HotRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients that have read nothing for longest are closed first, before their own time-out."""
    accepted, joined = 0, HttpGuard.joined

    def counted(guard: HttpGuard, *arguments: Any) -> None:
        nonlocal accepted
        accepted += 1
        joined(guard, *arguments)

    monkeypatch.setattr(HttpGuard, "joined", counted)
    limits = HttpLimits(sweep_s=0.05, write_s=600, unread_bytes=300_000)
    async with guarded(module_app, limits) as (url, running, _):
        writers = []
        for _ in range(10):
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1024)
            transport: Any = writer.transport
            transport.pause_reading()
            writer.write(b"GET /docs HTTP/1.1\r\nhost: r\r\n\r\n" * 20)
            writers.append(writer)
        await until(lambda: accepted == 10)
        await until(lambda: len(running.server_state.connections) < 5)
        for writer in writers:
            writer.close()


async def test_the_longest_idle_connections_are_closed_for_new_ones(module_app: HotRoutes) -> None:
    limits = HttpLimits(sweep_s=0.05, headers_s=600, connections=50)
    async with guarded(module_app, limits) as (url, running, _):
        idle = [await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(120)]
        await until(lambda: 0 < len(running.server_state.connections) <= 50)
        async with connected(url) as wire:
            wire.writer.write(b"GET /healthz HTTP/1.1\r\nhost: r\r\n\r\n")
            assert (await wire.answer()).status == 200
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("request_of", ["token", "webhook", "framework"])
async def test_a_connection_that_has_shown_a_key_is_closed_after_all_others(
    module_app: HotRoutes, project: CreatedProject, signed: Signed, request_of: str
) -> None:
    limits = HttpLimits(sweep_s=0.05, headers_s=600, connections=50)
    asks = {
        "token": head(TOKENS, key_of(project), 33) + b'{"room":"lobby","identity":"ada"}',
        "webhook": head(WEBHOOKS, signed(b"{}"), 2) + b"{}",
        "framework": get("/v1/keys", key_of(project)),
    }
    async with guarded(module_app, limits) as (url, running, _), connected(url) as wire:
        for _ in range(2):  # a first token can be answered by the framework
            wire.writer.write(asks[request_of])
            assert (await wire.answer()).status == 200
        idle = [await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(120)]
        await until(lambda: 0 < len(running.server_state.connections) <= 50)
        wire.writer.write(asks[request_of])
        assert (await wire.answer()).status == 200
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("path", [TOKENS, WEBHOOKS, "/v1/rooms", "/sign-in", "/healthz"])
@pytest.mark.parametrize("sent", [0, 10, 30_000])
async def test_an_incomplete_request_is_not_logged_as_an_error(
    module_app: HotRoutes,
    project: CreatedProject,
    signed: Signed,
    caplog: pytest.LogCaptureFixture,
    path: str,
    sent: int,
) -> None:
    """With or without a key or signature: no line in the log, and nothing that an alert counts."""
    before = _internal_errors()
    async with guarded(module_app, HttpLimits()) as (url, running, _):
        for headers in ({}, signed(b"x") if path == WEBHOOKS else key_of(project)):
            async with connected(url) as wire:
                wire.writer.write(head(path, {**headers, "Content-Type": "application/json"}, 60_000) + b" " * sent)
                await wire.writer.drain()
                await until(lambda: bool(running.server_state.connections))
            await until(lambda: not running.server_state.connections and not running.server_state.tasks)
    assert _internal_errors() == before
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


def _internal_errors() -> float:
    return metrics.REGISTRY.get_sample_value("relay_problems_total", {"code": "internal_error"}) or 0.0


@pytest.mark.parametrize("admitted", [False, True])
def test_a_budget_is_zero_after_everything_is_released(admitted: bool) -> None:
    budget = BodyBudget(100_000, 50_000)
    held = [budget.hold() for _ in range(10)]
    for one in held:
        if admitted:
            one.admit()
        for size in (1, FREE_BYTES, FREE_BYTES + 10_000, FREE_BYTES + 5_000):
            one.grow_to(size)
        one.admit()
    assert budget.used == 100_000
    assert not held[0].grow_to(FREE_BYTES + 20_000)
    for one in held:
        one.release()
    assert (budget.used, budget.unknown) == (0, 0)


KEYS, LARGE = "/v1/keys", 20_000


def fill_unknown(guard: HttpGuard) -> None:
    """Use up the whole budget for the bodies of unknown clients."""
    assert guard.bodies.hold().grow_to(SMALL.unknown_bodies_bytes + FREE_BYTES)


def get(path: str, headers: dict[str, str]) -> bytes:
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", "host: relay", *(f"{n}: {v}" for n, v in headers.items()), "", ""]
    ).encode()


async def test_a_known_key_passes_a_full_budget_of_unknown_clients(
    module_app: HotRoutes, project: CreatedProject
) -> None:
    key = key_of(project)
    async with guarded(module_app, SMALL) as (url, _, guard), connected(url) as wire:
        scope = {"path": KEYS, "headers": [(b"authorization", key["Authorization"].encode())]}
        for _ in range(50):  # no key is cached before the process listens for revocations
            wire.writer.write(get(KEYS, key))
            assert (await wire.answer()).status == 200
            if guard.is_known(scope):
                break
        fill_unknown(guard)
        wire.writer.write(head(KEYS, key, LARGE) + b"x" * LARGE)
        assert (await wire.answer()).status == 400
        wire.writer.write(get(KEYS, key))
        assert (await wire.answer()).status == 200


async def test_a_key_counts_for_its_own_request_only(module_app: HotRoutes, project: CreatedProject) -> None:
    """A proxy may send the requests of many clients over one connection."""
    async with guarded(module_app, SMALL) as (url, _, guard), connected(url) as wire:
        for before in (get(KEYS, key_of(project)), get("/healthz", {})):
            wire.writer.write(before)
            assert (await wire.answer()).status == 200
        fill_unknown(guard)
        wire.writer.write(get(KEYS, key_of(project)))
        assert (await wire.answer()).status == 200
        wire.writer.write(head(KEYS, NO_KEY["unknown_key"], LARGE) + b"x" * LARGE)
        assert (await wire.answer()).status == 503


async def test_a_refused_head_request_has_no_body(module_app: HotRoutes) -> None:
    async with guarded(module_app, SMALL) as (url, _, guard), connected(url) as wire:
        fill_unknown(guard)
        wire.writer.write(head("/docs", {}, LARGE).replace(b"POST", b"HEAD", 1) + b"x" * LARGE)
        wire.writer.write(get("/healthz", {}))
        async with asyncio.timeout(5):
            first = await wire.reader.readuntil(b"\r\n\r\n")
            second = await wire.reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 503 ")
        assert second.startswith(b"HTTP/1.1 200 ")
