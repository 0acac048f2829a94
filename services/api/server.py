"""Uvicorn with an end in two steps, so that a process can be replaced without a client noticing.

After the first signal it goes on answering for a set time, but `/readyz` says no and every answer closes its connection: load
balancers and keep-alive clients move on by themselves. Then it stops accepting, answers what is in hand, and ends. A
connection closed under a client that is about to use it would be a request that nobody answered.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn

from services.api.hot_protocol import HotProtocol
from services.api.listeners import empty_queues

log = logging.getLogger("relay.api")

_CLOSE = (b"connection", b"close")
STOP_TIMEOUT_S = 20
KEEP_ALIVE_S = 75
# New connections that one turn of the event loop takes.
ACCEPTED_AT_ONCE = 32


def server_config(app: Any, **where: Any) -> uvicorn.Config:
    """How the API is served, by a process as by the tests. ``where``: host, port and the like."""
    return uvicorn.Config(
        app,
        http=HotProtocol,
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        **where,
    )


class Drain:
    """Whether this process is on its way out."""

    __slots__ = ("started",)

    def __init__(self) -> None:
        self.started = False


class Server(uvicorn.Server):
    """``drain_s``: how long to go on answering after the first signal. A second signal ends the waiting."""

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_s: float) -> None:
        super().__init__(config)
        self._drain, self._drain_s = drain, drain_s
        self._close_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._accept_together()
        # What is there now stays: looking through it again would stop all requests for a tenth of a second, now and then.
        gc.collect()
        gc.freeze()

    async def _accept_together(self) -> None:
        """Listens on the same sockets ``ACCEPTED_AT_ONCE`` times. Libuv takes one new connection of a listener in a turn of its
        loop; under load a turn is a tenth of a second, and when all clients come at once, as when another process was stopped,
        the last of hundreds would wait for longer than anybody does."""
        loop, config = asyncio.get_running_loop(), self.config

        def connection() -> asyncio.Protocol:
            protocol: Any = config.http_protocol_class
            accepted: asyncio.Protocol = protocol(
                config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )
            return accepted

        for listening in [each.fileno() for server in self.servers for each in server.sockets]:
            for _ in range(ACCEPTED_AT_ONCE - 1):
                again = socket.socket(fileno=os.dup(listening))
                self.servers.append(await loop.create_server(connection, sock=again, backlog=config.backlog))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's, after every connection that the kernel took was accepted."""
        listening = {each.fileno() for server in self.servers for each in server.sockets}
        duplicates = [socket.socket(fileno=os.dup(each)) for each in listening]
        await empty_queues([each for each in duplicates if each.family != socket.AF_UNIX])
        for each in duplicates:
            each.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal. Uvicorn's own would raise the signal again at the end: an orderly stop is no death by it."""
        if self._drain.started:
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True
            return
        self._drain.started = True
        self._close_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        ending = await super().on_tick(counter)
        if self._close_at is None:
            return ending
        if _CLOSE not in self.config.encoded_headers:
            log.info("stopping: answering for another %g s, then closing", self._drain_s)
            self.config.encoded_headers.append(_CLOSE)
            # Uvicorn itself would take up the new header with the next second.
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return ending or time.monotonic() >= self._close_at
