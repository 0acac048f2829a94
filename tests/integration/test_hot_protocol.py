"""The hot routes answer on the connection exactly as the application would."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import uvloop

from services.api.app import create_app
from services.api.http.access import key_store as auth
from services.api.http.serving.hot_routes import HotRoutes
from services.api.http.serving.http_limits import HttpLimits
from services.api.http.serving.server import Drain, Server, server_config
from services.api.webhooks.intake import Intake
from shared.errors import EventNotKept
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.integration.conftest import key_of, serving_started

Signed = Callable[[bytes], dict[str, str]]
SOON_S = 10.0
TOKENS, WEBHOOKS = "/v1/tokens", "/api/webhooks/livekit"
GOOD = b'{"room":"lobby","identity":"ada","ttl":600}'
# What differs between two answers to the same request.
_OWN = re.compile(
    rb'(?<=date: )[^\r]*|req_[0-9a-f]{18}|(?<=remaining: )\d+|(?<=reset: )\d+|"(?:token|expiresAt)":"[^"]*"'
)


class Got(NamedTuple):
    status: int
    head: bytes
    body: bytes


class RawConnection:
    """A connection, and the answers that arrive on it in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> Got:
        async with asyncio.timeout(SOON_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            return Got(int(head[9:12]), head, await self.reader.readexactly(int(length[1])))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(SOON_S):
            return await self.reader.read() == b""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RawConnection]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * SOON_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def settings(module_settings: Settings) -> Settings:
    """The settings of the shared application. Each test has its own project."""
    return module_settings


@pytest.fixture
async def url(module_app: HotRoutes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(auth, "TRUST_MS", 60_000)  # on a busy machine a late heartbeat makes known keys be looked up
    async with serving_started(module_app) as running:
        yield running


def request(path: str, headers: dict[str, str], body: bytes, *, chunked: bool = False) -> bytes:
    """Build a request. A ``chunked`` one is answered by the application and not by the hot path."""
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    lines = [f"POST {path} HTTP/1.1", "host: relay", *(f"{name}: {value}" for name, value in headers.items()), length]
    sent = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n" if chunked else body
    return "\r\n".join([*lines, "", ""]).encode() + sent


def without_own(answer: Got) -> tuple[int, list[bytes], bytes]:
    return answer.status, sorted(_OWN.sub(b"_", answer.head).split(b"\r\n")), _OWN.sub(b"_", answer.body)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the paths of all requests that reach the application."""
    paths: list[str] = []
    whole = HotRoutes.__call__

    async def noted(self: HotRoutes, scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope.get("path", ""))
        await whole(self, scope, receive, send)

    monkeypatch.setattr(HotRoutes, "__call__", noted)
    return paths


async def wait_until_answered_by_the_connection(wire: Any, key: dict[str, str], asked: list[str]) -> None:
    """Request tokens until the key is cached, which needs a connection that listens for revocations."""
    for _ in range(200):
        asked.clear()
        wire.writer.write(request(TOKENS, key, GOOD))
        assert (await wire.answer()).status == 200
        if not asked:
            return
    raise AssertionError("the key is never cached")


async def test_hot_path_and_application_answer_the_same(
    url: str, project: CreatedProject, signed: Signed, asked: list[str]
) -> None:
    json, key = {"Content-Type": "application/json"}, key_of(project)
    known = [
        (TOKENS, {**key, **json}, GOOD, 200),
        (TOKENS, key, GOOD, 200),
        (TOKENS, {**key, **json}, b"", 400),
        (TOKENS, {**key, **json}, b"{", 400),
        (TOKENS, {**key, **json}, b'{"room":"lobby","identity":"ada","canPubish":false}', 400),
        (TOKENS, {**key, **json}, b'{"room":"a b","identity":"ada"}', 400),
        (TOKENS, {**key, "Content-Type": "text/plain"}, GOOD, 415),
        (WEBHOOKS, signed(b'{"event":"x"}'), b'{"event":"x"}', 200),
        (WEBHOOKS, signed(b""), b"", 200),
        (WEBHOOKS, signed(b'{"event":"x"}'), b'{"event":"y"}', 401),
        (WEBHOOKS, {}, b"{}", 401),
        (WEBHOOKS, {"Authorization": "a.b.c"}, b"{}", 401),
    ]
    unknown = [
        (TOKENS, json, GOOD, 401),
        (TOKENS, {**json, "Authorization": "Bearer sk_live_no"}, GOOD, 401),
        (TOKENS, {**json, **key_of(project, key_type="publishable")}, GOOD, 403),
        (TOKENS + "/", {**key, **json}, GOOD, 200),
        (TOKENS + "?a=b", {**key, **json}, GOOD, 400),
        (WEBHOOKS, signed(b"x" * 70_000), b"x" * 70_000, 200),
    ]
    async with connected(url) as wire:
        await wait_until_answered_by_the_connection(wire, {**key, **json}, asked)
        for cases, at_once in ((known, True), (unknown, False)):
            for path, headers, body, status in cases:
                asked.clear()
                wire.writer.write(request(path, headers, body))
                one = await wire.answer()
                assert (asked == []) == at_once
                wire.writer.write(request(path, headers, body, chunked=True))
                other = await wire.answer()
                assert len(asked) == (1 if at_once else 2)
                assert without_own(one) == without_own(other)
                assert one.status == status


async def test_every_answer_has_a_unique_request_id(url: str) -> None:
    async with connected(url) as wire:
        found = set()
        for _ in range(20):
            wire.writer.write(request(WEBHOOKS, {}, b"{}"))
            answer = await wire.answer()
            identifier = re.search(rb"x-request-id: (req_[0-9a-f]{18})\r\n", answer.head)
            assert identifier is not None
            assert identifier[1] in answer.body
            found.add(identifier[1])
    assert len(found) == 20


async def test_pipelined_answers_keep_the_order_of_the_requests(
    url: str, project: CreatedProject, signed: Signed, asked: list[str]
) -> None:
    """The requests are sent in one piece. Those behind one that waits for Redis wait too, on either path."""
    key = key_of(project)
    event = request(WEBHOOKS, signed(b'{"event":"x"}'), b'{"event":"x"}')
    token = request(TOKENS, key, GOOD)
    other = b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n"
    order = [token, event, token, token, other, event, event, other, token, request(WEBHOOKS, {}, b"{}"), token]
    async with connected(url) as wire:
        for _ in range(3):
            wire.writer.write(b"".join(order))
            answers = [await wire.answer() for _ in order]
            kinds = [
                (b"token" in body, b"received" in body, b"status" in body)
                for _, _, body in answers
                if b"detail" not in body
            ]
            t, e, o = (True, False, False), (False, True, False), (False, False, True)
            assert kinds == [t, e, t, t, o, e, e, o, t, t]
            assert answers[9].status == 401


@pytest.mark.parametrize("path", [TOKENS, WEBHOOKS])
async def test_a_connection_closes_when_the_client_requests_it(
    url: str, project: CreatedProject, signed: Signed, path: str
) -> None:
    headers, body = (key_of(project), GOOD) if path == TOKENS else (signed(b"{}"), b"{}")
    async with connected(url) as wire:
        for more in ({}, {"Connection": "close"}):
            wire.writer.write(request(path, {**headers, **more}, body))
            answer = await wire.answer()
            assert answer.status == 200
            assert (b"connection: close\r\n" in answer.head) == bool(more)
        assert await wire.is_closed()


async def test_requests_in_pieces_are_answered_by_the_hot_path(url: str, signed: Signed, asked: list[str]) -> None:
    body = b'{"event":"%b"}' % (b"x" * 5000)
    whole = request(WEBHOOKS, signed(body), body)
    async with connected(url) as wire:
        for size in (1500, 4000):
            for start in range(0, len(whole), size):
                wire.writer.write(whole[start : start + size])
                await wire.writer.drain()
            assert (await wire.answer()).status == 200
    assert asked == []


async def test_an_intake_error_is_answered_and_a_defect_is_logged(
    url: str, signed: Signed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = [EventNotKept("too many"), RuntimeError("a defect")]

    def keep(_self: Intake, _received: Any) -> "asyncio.Future[None]":
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(errors.pop(0))
        return failed

    monkeypatch.setattr(Intake, "keep", keep)
    async with connected(url) as wire:
        wire.writer.write(request(WEBHOOKS, signed(b"{}"), b"{}"))
        refused = await wire.answer()
        assert refused.status == 503
        assert b"retry-after: " in refused.head
        wire.writer.write(request(WEBHOOKS, signed(b"{}"), b"{}"))
        failed = await wire.answer()
    assert failed.status == 500
    assert b"a defect" not in failed.body
    identifier = re.search(rb"req_[0-9a-f]{18}", failed.body)
    assert identifier is not None
    assert f"request {identifier[0].decode()} failed" in caplog.text


async def test_a_disconnected_client_does_not_affect_other_answers(url: str, signed: Signed) -> None:
    async with connected(url) as stays:
        async with connected(url) as leaves:
            leaves.writer.write(request(WEBHOOKS, signed(b"{}"), b"{}"))
            leaves.writer.transport.abort()
        stays.writer.write(request(WEBHOOKS, signed(b"{}"), b"{}"))
        assert (await stays.answer()).status == 200


async def test_answers_wait_for_a_client_that_does_not_read(
    url: str, project: CreatedProject, asked: list[str]
) -> None:
    """Unread answers would fill the memory. Above the high-water mark of the transport, answers wait."""
    large = b'{"room":"lobby","identity":"ada","metadata":"%b"}' % (b"x" * 60_000)
    async with connected(url) as wire:
        await wait_until_answered_by_the_connection(wire, key_of(project), asked)
        wire.writer.write(request(TOKENS, key_of(project), large) * 200)
        for _ in range(200):
            assert (await wire.answer()).status == 200
    assert 0 < len(asked) < 200


async def test_a_client_that_hangs_up_without_reading_logs_no_traceback(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer that waits for the client is discarded.

    The test runs on uvloop like the real process, because uvloop reports a write to a closed transport.
    """

    async def hang_up() -> None:
        serving = Server(server_config(create_app(settings), port=0), Drain(), drain_s=0)
        task = asyncio.create_task(serving.serve())
        await until(lambda: serving.started or task.done())
        state: Any = serving.server_state
        async with connected(f"http://127.0.0.1:{serving.servers[0].sockets[0].getsockname()[1]}") as wire:
            wire.writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: relay\r\n\r\n" * 300)
            await until(lambda: any(each.flow.write_paused for each in state.connections))
            wire.writer.transport.abort()
        await until(lambda: not state.connections and not state.tasks)
        serving.should_exit = True
        await task

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(hang_up())

    await asyncio.to_thread(run)
    assert "Traceback" not in caplog.text


async def test_only_idle_connections_are_closed(module_app: HotRoutes, signed: Signed) -> None:
    """This holds whether the hot path or the application answered the last request."""
    event, other = request(WEBHOOKS, signed(b"{}"), b"{}"), b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n"
    async with serving_started(module_app, limits=HttpLimits(headers_s=0.2, sweep_s=0.05, keep_alive_s=1)) as url:
        for asks in (event, other):
            async with connected(url) as wire:
                asked = time.monotonic()
                wire.writer.write(asks)
                assert (await wire.answer()).status == 200
                assert await wire.is_closed()
                assert time.monotonic() - asked > 0.9


async def test_a_stopping_process_answers_and_closes_its_connections(settings: Settings, signed: Signed) -> None:
    """Running requests are answered first: an event that arrives with the signal is still stored."""
    leaving = Server(server_config(create_app(settings), port=0), Drain(), drain_s=60)
    task = asyncio.create_task(leaving.serve())
    await until(lambda: leaving.started or task.done())
    url = f"http://127.0.0.1:{leaving.servers[0].sockets[0].getsockname()[1]}"
    event = request(WEBHOOKS, signed(b"{}"), b"{}")
    async with connected(url) as one, connected(url) as other:
        one.writer.write(event)
        assert b"connection: close" not in (await one.answer()).head
        leaving.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(SOON_S):
            head = b""
            while b"connection: close\r\n" not in head:
                one.writer.write(event)
                status, head, _ = await one.answer()
                assert status == 200
        assert await one.is_closed()
        other.writer.write(event)
        leaving.handle_exit(signal.SIGTERM, None)  # a second signal ends the wait
        assert (await other.answer()).status == 200
    await task


async def test_a_just_opened_connection_is_answered_before_the_stop(settings: Settings, signed: Signed) -> None:
    leaving = Server(server_config(create_app(settings), HttpLimits(young_s=5.0), port=0), Drain(), drain_s=0)
    task = asyncio.create_task(leaving.serve())
    await until(lambda: leaving.started or task.done())
    listening = leaving.servers[0]
    async with connected(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}") as wire:
        await until(lambda: bool(leaving.server_state.connections))
        leaving.handle_exit(signal.SIGTERM, None)
        await until(lambda: not listening.is_serving())
        wire.writer.write(request(WEBHOOKS, signed(b"{}"), b"{}"))
        answer = await wire.answer()
        assert answer.status == 200
        assert b"connection: close\r\n" in answer.head
        assert await wire.is_closed()
    await task
