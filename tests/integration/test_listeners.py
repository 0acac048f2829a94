"""A stopping process answers every connection that the kernel accepted for it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.api.http.serving import listeners
from services.api.http.serving.listeners import empty_queues
from services.api.http.serving.server import ACCEPTED_AT_ONCE, Drain, Server, server_config
from shared.infra.tasks import end_tasks

REQUEST = b"POST / HTTP/1.1\r\nhost: relay\r\ncontent-length: 1\r\n\r\nx"


async def answer(scope: dict[str, str], receive: object, send: object) -> None:
    """A minimal ASGI application."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})  # type: ignore[operator]  # ASGI
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]  # ASGI


def denied(listening: socket.socket) -> None:
    raise PermissionError(1, "Operation not permitted")


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    config = server_config(answer, host="127.0.0.1", port=0)
    config.lifespan = "off"
    server = Server(config, Drain(), drain_s=0)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while len(getattr(server, "servers", [])) < ACCEPTED_AT_ONCE:
                assert not task.done()
                await asyncio.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("filtered", [True, False], ids=["filter", "no right to set one"])
@pytest.mark.parametrize("clients", [1, 2, 40, 120])
async def test_a_stop_resets_no_connection(clients: int, filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients connect and send before the event loop has a turn to accept the first of them."""
    if not filtered:  # a kernel may deny a container the right to set a filter
        monkeypatch.setattr(listeners, "_refuse_packets", denied)
    async with serving() as server:
        address = server.servers[0].sockets[0].getsockname()
        sockets = [socket.create_connection(address) for _ in range(clients)]
        for each in sockets:
            each.sendall(REQUEST)
        await server.shutdown()
    for each in sockets:
        with each:
            each.settimeout(5)
            assert each.recv(12) == b"HTTP/1.1 200"


async def test_a_request_that_arrives_during_the_stop_is_answered() -> None:
    async with serving() as server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
        while not server.server_state.connections:
            assert server.started
            await asyncio.sleep(0.001)
        stopping = asyncio.create_task(server.shutdown())
        while any(each.is_serving() for each in server.servers):
            assert not stopping.done()
            await asyncio.sleep(0.001)
        writer.write(REQUEST)
        assert await reader.read(12) == b"HTTP/1.1 200"
        writer.close()
        await stopping


async def test_no_client_connects_while_the_queue_is_being_emptied() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        listening.setblocking(False)
        waiting = socket.create_connection(listening.getsockname())
        emptying = asyncio.create_task(empty_queues([listening]))
        await asyncio.sleep(0)
        with socket.socket() as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(listening.getsockname())
        assert not emptying.done()
        accepted, _ = listening.accept()
        await asyncio.wait_for(emptying, 5)
        accepted.close()
        waiting.close()
    await end_tasks([emptying])
