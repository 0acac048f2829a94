"""The proxy of compose hides internal paths and forwards requests to running API processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.proxy import shipped_proxy
from tests.ports import free_port

LARGEST_WEBHOOK = 8 << 20


@asynccontextmanager
async def echo(port: int) -> AsyncIterator[None]:
    """Serve: answer each request with its path and the length of its body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            received = len(await reader.readexactly(length))
            body = f"{head.split()[1].decode()} {received}".encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def spellings(path: str) -> list[str]:
    """Return other spellings that a server may treat as the same path."""
    first, rest = path[1], path[2:]
    return [
        path, path.upper(), f"/{path}", f"/.{path}", f"/x/..{path}", f"/%{ord(first):02x}{rest}", f"/%{ord(first):02X}{rest}",
        f"{path}/", f"{path}/deeper", f"{path}?x=1", f"{path}/../{path[1:]}", path.replace("a", "%61"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", [p for name in ("/metrics", "/internal", "/internal/gate") for p in spellings(name)])
async def test_proxy_answers_404_for_internal_paths(proxy: httpx.AsyncClient, path: str) -> None:
    # Set the raw path, because httpx would normalize it.
    request = proxy.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert (await proxy.send(request)).status_code == 404


@pytest.mark.parametrize("path", ["/", "/internally", "/metricsx", "/v1/tokens", "/x/metrics", "/v1/rooms/internal"])
async def test_proxy_forwards_other_paths(proxy: httpx.AsyncClient, path: str) -> None:
    answer = await proxy.get(path)
    assert (answer.status_code, answer.text) == (200, f"{path} 0")


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20, LARGEST_WEBHOOK])
async def test_proxy_sends_request_bodies_to_the_running_process(tmp_path: Path, size: int) -> None:
    """Two of three processes are down, so most requests reach one of those first. Caddy 2.10 answers 502."""
    port = free_port()
    with shipped_proxy([free_port(), free_port(), port], tmp_path) as proxy_port:
        async with echo(port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy_port}", trust_env=False) as client:
            for _ in range(6):
                answer = await client.post("/api/webhooks/livekit", content=b"x" * size, timeout=20)
                assert (answer.status_code, answer.text) == (200, f"/api/webhooks/livekit {size}")


@pytest.fixture(scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    with shipped_proxy([port], tmp_path_factory.mktemp("proxy")) as proxy_port:
        async with echo(port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy_port}", trust_env=False) as client:
            yield client
