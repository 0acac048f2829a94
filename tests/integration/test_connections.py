"""Clients that send slowly, too much or nothing, over plain sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import uvicorn

from services.api.app import create_app
from services.api.http.serving.http_limits import HttpLimits
from services.api.http.serving.server import server_config
from services.local.embedded import EmbeddedServers
from shared.infra.settings import Settings
from shared.livekit.webhook import WebhookSigner
from tests.conftest import fresh_database, settings_for

SOON_S = 30.0
# For tests that wait for a time-out. A request that arrives in one piece has a second, enough on a busy machine.
IMPATIENT = HttpLimits(headers_s=1.0, request_s=1.5, sweep_s=0.05)
# For all other tests: no time-out ends within a test.
PATIENT = HttpLimits(headers_s=600, request_s=600, write_s=600, sweep_s=0.05)


def signed_head(length: int) -> bytes:
    """Return the headers of a webhook with a body of ``length`` bytes.

    Without a signature the API would not read the body. The signature is made on each call:
    it is valid for five minutes, and the whole suite may take longer.
    """
    signature = WebhookSigner("devkey", "secret").sign(b"", now_s=int(time.time()))
    return (
        f"POST /api/webhooks/livekit HTTP/1.1\r\nhost: relay\r\nauthorization: {signature}\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


class Talk(NamedTuple):
    """A plain TCP connection to the API."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def all(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(SOON_S):
            return await self.reader.read()

    async def some(self, until: bytes) -> bytes:
        async with asyncio.timeout(SOON_S):
            return await self.reader.readuntil(until)


@asynccontextmanager
async def listening(settings: Settings, limits: HttpLimits) -> AsyncIterator[int]:
    """Run an API with these limits. Yields its port."""
    server = uvicorn.Server(server_config(create_app(settings), limits, port=0))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            assert not task.done(), "the API did not start"
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@asynccontextmanager
async def talking(port: int) -> AsyncIterator[Talk]:
    opened = Talk(*await asyncio.open_connection("127.0.0.1", port))
    yield opened
    opened.writer.close()
    await asyncio.gather(opened.writer.wait_closed(), return_exceptions=True)  # the server may have reset it


@pytest.fixture(scope="module")
async def ports(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[tuple[int, int]]:
    """Ports of an API with long time-outs and of one with short time-outs.

    All tests of this module share them, because none changes anything.
    """
    with fresh_database(servers, migrated_template) as database:
        settings = settings_for(database, servers.redis_url)
        async with listening(settings, PATIENT) as patient, listening(settings, IMPATIENT) as impatient:
            yield patient, impatient


@pytest.fixture
async def conversation(ports: tuple[int, int]) -> AsyncIterator[Talk]:
    """A connection to the API with long time-outs."""
    async with talking(ports[0]) as opened:
        yield opened


@pytest.fixture
async def hurried(ports: tuple[int, int]) -> AsyncIterator[Talk]:
    """A connection to the API with short time-outs."""
    async with talking(ports[1]) as opened:
        yield opened


async def trickle(conversation: Talk, text: bytes) -> None:
    """Send one byte at a time until the server closes the connection."""
    try:
        for byte in text:
            await conversation.say(bytes([byte]))
            await asyncio.sleep(0.02)
    except OSError:
        pass  # the server closed the connection, as expected


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /heal", b"GET /healthz HTTP/1.1\r\nhost: relay\r\n"])
async def test_unfinished_headers_time_out(hurried: Talk, said: bytes) -> None:
    await hurried.say(said)
    answer = await hurried.all()
    assert answer.startswith(b"HTTP/1.1 408 Request timeout\r\n")
    assert b'"code":"request_timeout"' in answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("part", ["headers", "body"])
async def test_trickling_headers_and_bodies_time_out(hurried: Talk, part: str) -> None:
    if part == "body":
        await hurried.say(signed_head(9000))
    drops = b" " * 9000 if part == "body" else b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 10_000
    trickling = asyncio.create_task(trickle(hurried, drops))
    answer = await hurried.all()
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_body_that_never_arrives_times_out(hurried: Talk, caplog: pytest.LogCaptureFixture) -> None:
    await hurried.say(signed_head(10) + b"{")
    assert (await hurried.all()).startswith(b"HTTP/1.1 408")
    assert "Traceback" not in caplog.text


async def test_an_empty_line_between_requests_does_not_prevent_the_time_out(hurried: Talk) -> None:
    await hurried.say(b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n")
    assert b" 200 OK" in await hurried.some(b'"ok"}')
    await hurried.say(b"\r\n")
    assert (await hurried.all()).startswith(b"HTTP/1.1 408")


async def test_an_idle_connection_between_requests_is_kept(hurried: Talk) -> None:
    for _ in range(2):
        await hurried.say(b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n")
        await hurried.some(b'"ok"}')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(IMPATIENT.request_s + 0.5):  # longer than either time-out
                await hurried.reader.read(1)


async def test_too_large_headers_are_refused(conversation: Talk) -> None:
    await conversation.say(b"GET /healthz HTTP/1.1\r\n" + b"x-filler: " + b"a" * 70_000)
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"headers_too_large" in answer


async def test_a_large_body_does_not_count_as_headers(conversation: Talk) -> None:
    body = b"x" * 300_000
    await conversation.say(
        b"POST /api/webhooks/livekit HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: 300000\r\n\r\n" + body
    )
    assert b"missing_signature" in await conversation.all()


async def test_an_endless_body_is_cut_off(conversation: Talk) -> None:
    await conversation.say(b"POST /api/webhooks/livekit HTTP/1.1\r\nhost: relay\r\ntransfer-encoding: chunked\r\n\r\n")
    sent = 0
    try:
        async with asyncio.timeout(SOON_S):
            while sent < 100 * PATIENT.request_bytes:
                await conversation.say(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
    except OSError:
        pass
    assert sent < 20 * PATIENT.request_bytes


_SECOND = b"GET /readyz HTTP/1.1\r\nhost: relay\r\n\r\n"


@pytest.mark.parametrize("apart", [False, True])
async def test_the_body_of_an_upgrade_request_is_not_read_as_a_request(conversation: Talk, apart: bool) -> None:
    """A request that asks for HTTP/2 by `Upgrade` is answered in HTTP/1.1, and its body stays a body.

    Otherwise a stranger behind a proxy that passes the header on could send requests on a connection that others use.
    """
    head = b"POST /healthz HTTP/1.1\r\nhost: relay\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    head += b"http2-settings: AAMAAABkAAQAAP__\r\ncontent-length: %d\r\n\r\n" % len(_SECOND)
    if apart:
        await conversation.say(head)
        await conversation.some(b"\r\n\r\n")  # refused before its body arrives
        await conversation.say(_SECOND)
    else:
        await conversation.say(head + _SECOND)
    await conversation.say(b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n")
    answers = await conversation.all()
    assert answers.endswith(b'{"status":"ok"}')
    assert b"checks" not in answers


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_an_upgrade_request_is_answered_in_http_1_1(conversation: Talk, chunked: bool, upgrade: bytes) -> None:
    body = b'{"room": "lobby"}'
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    await conversation.say(
        b"POST /api/webhooks/livekit HTTP/1.1\r\nhost: relay\r\nconnection: Upgrade, close\r\nupgrade: %s\r\n%s\r\n\r\n"
        % (upgrade, length)
        + sent
    )
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"missing_signature" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_many_pipelined_upgrade_requests_are_answered(
    conversation: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    """There are far more requests than the interpreter nests calls. Their bodies are not read as requests."""
    one = b"POST /healthz HTTP/1.1\r\nhost: relay\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 3\r\n\r\nabc"
    await conversation.say(one * 1500 + b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n")
    answers = await conversation.all()
    assert answers.count(b"HTTP/1.1 405 ") == 1500
    assert answers.endswith(b'{"status":"ok"}')
    assert caplog.records == []


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: relay\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: relay\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: relay\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost : relay\r\n\r\n",
        b"GET http://relay HTTP/1.1\r\nhost: relay\r\n\r\n",  # no path at all
        b"CONNECT relay HTTP/1.1\r\nhost: relay\r\n\r\n",
    ],
)
async def test_malformed_http_is_answered_with_a_problem(conversation: Talk, said: bytes) -> None:
    await conversation.say(said)
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 400 Bad request\r\n")
    assert b"application/problem+json" in answer
    assert b'"code":"malformed_request"' in answer
    assert b"x-request-id: req_" in answer


async def test_the_connect_method_is_refused(conversation: Talk) -> None:
    await conversation.say(b"CONNECT /healthz HTTP/1.1\r\nhost: relay\r\n\r\n")
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 405 ")
