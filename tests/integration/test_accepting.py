"""Accepting new connections while the event loop is busy."""

import asyncio
import socket
import time

import uvloop

from services.api.http.serving.server import ACCEPTED_AT_ONCE, Drain, Server, server_config


async def _no_application(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError


async def _turns_until_accepted(count: int) -> int:
    """Return how many turns of the event loop it takes to accept ``count`` waiting connections."""
    server = Server(server_config(_no_application, host="127.0.0.1", port=0), Drain(), 0)
    server.config.lifespan = "off"
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    clients = []
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        for _ in range(count):
            clients.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        turns, deadline = 0, time.monotonic() + 20
        while len(server.server_state.connections) < count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
            turns += 1
        return turns
    finally:
        for client in clients:
            client.close()
        for each in server.servers:
            each.close()
        await asyncio.sleep(0.05)


def test_a_burst_of_clients_is_accepted_within_a_few_loop_turns() -> None:
    """The server accepts many connections per turn of the event loop.

    A turn under load takes 0.1 s. With one accept per turn, the last of 500 clients waited for more than ten seconds.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(_turns_until_accepted(4 * ACCEPTED_AT_ONCE)) <= 12
