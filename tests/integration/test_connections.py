"""Clients that send slowly, too much or nothing, over plain sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import uvicorn

from services.api.app import create_app
from services.api.http.serving.http_limits import HttpLimits
from services.api.http.serving.server import server_config
from shared.infra.settings import Settings
from shared.livekit.webhook import WebhookSigner

SOON_S = 10.0
LIMITS = HttpLimits(headers_s=0.4, request_s=0.8, sweep_s=0.05)


# Headers of a webhook that may be read: what is not signed is refused before its body.
SIGNED = b"POST /api/webhooks/livekit HTTP/1.1\r\nhost: relay\r\nauthorization: %s\r\n" % (
    WebhookSigner("devkey", "secret").sign(b"", now_s=int(time.time())).encode()
)


class Talk(NamedTuple):
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def all(self) -> bytes:
        """What comes until the server hangs up."""
        async with asyncio.timeout(SOON_S):
            return await self.reader.read()

    async def some(self, until: bytes) -> bytes:
        async with asyncio.timeout(SOON_S):
            return await self.reader.readuntil(until)


@pytest.fixture
async def port(settings: Settings) -> AsyncIterator[int]:
    server = uvicorn.Server(server_config(create_app(settings), LIMITS, port=0))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(15):
        while not server.started:
            assert not task.done(), "the API did not start"
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def conversation(port: int) -> AsyncIterator[Talk]:
    opened = Talk(*await asyncio.open_connection("127.0.0.1", port))
    yield opened
    opened.writer.close()
    await asyncio.gather(opened.writer.wait_closed(), return_exceptions=True)  # the server may have reset it


async def trickle(conversation: Talk, text: bytes) -> None:
    """Send a byte at a time without end: the server has to close the connection."""
    try:
        for byte in text:
            await conversation.say(bytes([byte]))
            await asyncio.sleep(0.02)
    except OSError:
        pass  # it hung up, as it should


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /heal", b"GET /healthz HTTP/1.1\r\nhost: relay\r\n"])
async def test_headers_that_never_end(conversation: Talk, said: bytes) -> None:
    await conversation.say(said)
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 408 Request timeout\r\n")
    assert b'"code":"request_timeout"' in answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("begin", "drops"),
    [
        (b"", b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 10_000),
        (SIGNED + b"content-length: 9000\r\n\r\n", b" " * 9000),
    ],
)
async def test_headers_and_bodies_that_trickle(conversation: Talk, begin: bytes, drops: bytes) -> None:
    await conversation.say(begin)
    trickling = asyncio.create_task(trickle(conversation, drops))
    answer = await conversation.all()
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_body_that_is_awaited_and_never_comes(conversation: Talk, caplog: pytest.LogCaptureFixture) -> None:
    await conversation.say(SIGNED + b"content-length: 10\r\n\r\n{")
    assert (await conversation.all()).startswith(b"HTTP/1.1 408")
    assert "Traceback" not in caplog.text


async def test_an_empty_line_between_requests_holds_nothing_open(conversation: Talk) -> None:
    await conversation.say(b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n")
    assert b" 200 OK" in await conversation.some(b'"ok"}')
    await conversation.say(b"\r\n")
    assert (await conversation.all()).startswith(b"HTTP/1.1 408")


async def test_a_quiet_connection_between_requests_is_kept(conversation: Talk) -> None:
    for _ in range(2):
        await conversation.say(b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n")
        await conversation.some(b'"ok"}')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):  # longer than either time-out
                await conversation.reader.read(1)


async def test_headers_without_end_are_cut_off(conversation: Talk) -> None:
    await conversation.say(b"GET /healthz HTTP/1.1\r\n" + b"x-filler: " + b"a" * 70_000)
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"headers_too_large" in answer


async def test_a_large_body_behind_small_headers_is_no_large_header(conversation: Talk) -> None:
    body = b"x" * 300_000
    await conversation.say(
        b"POST /api/webhooks/livekit HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: 300000\r\n\r\n" + body
    )
    assert b"missing_signature" in await conversation.all()


async def test_a_body_without_end_is_cut_off(conversation: Talk) -> None:
    await conversation.say(b"POST /api/webhooks/livekit HTTP/1.1\r\nhost: relay\r\ntransfer-encoding: chunked\r\n\r\n")
    sent = 0
    try:
        async with asyncio.timeout(SOON_S):
            while sent < 100 * LIMITS.request_bytes:
                await conversation.say(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
    except OSError:
        pass
    assert sent < 20 * LIMITS.request_bytes


_SECOND = b"GET /readyz HTTP/1.1\r\nhost: relay\r\n\r\n"


@pytest.mark.parametrize("apart", [False, True])
async def test_a_body_is_no_second_request(conversation: Talk, apart: bool) -> None:
    """A client that asks for HTTP/2 by `Upgrade` gets the answer in HTTP/1.1, and its body stays a body.

    Otherwise a stranger behind a proxy that passes the header on could send requests on a connection that others use."""
    head = b"POST /healthz HTTP/1.1\r\nhost: relay\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    head += b"http2-settings: AAMAAABkAAQAAP__\r\ncontent-length: %d\r\n\r\n" % len(_SECOND)
    if apart:
        await conversation.say(head)
        await conversation.some(b"\r\n\r\n")  # refused before its body came
        await conversation.say(_SECOND)
    else:
        await conversation.say(head + _SECOND)
    await conversation.say(b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n")
    answers = await conversation.all()
    assert answers.endswith(b'{"status":"ok"}')
    assert b"checks" not in answers


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(
    conversation: Talk, chunked: bool, upgrade: bytes
) -> None:
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


async def test_many_at_once_that_ask_for_another_protocol(conversation: Talk, caplog: pytest.LogCaptureFixture) -> None:
    """Far more than the interpreter nests calls; bodies among them stay bodies."""
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
async def test_what_is_no_http_is_told_so_like_any_other_error(conversation: Talk, said: bytes) -> None:
    await conversation.say(said)
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 400 Bad request\r\n")
    assert b"application/problem+json" in answer
    assert b'"code":"malformed_request"' in answer
    assert b"x-request-id: req_" in answer


async def test_connect_is_refused_and_opens_nothing(conversation: Talk) -> None:
    await conversation.say(b"CONNECT /healthz HTTP/1.1\r\nhost: relay\r\n\r\n")
    answer = await conversation.all()
    assert answer.startswith(b"HTTP/1.1 405 ")
