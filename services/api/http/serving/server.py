"""Uvicorn with an end in two steps, so that a process can be replaced without a client noticing.

After the first signal it goes on answering for a set time, but `/readyz` says no and every answer closes its connection: load
balancers and keep-alive clients move on by themselves. Then it stops accepting, answers running requests, and ends. A
connection closed under a client that is about to use it would be a request that nobody answered.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from services.api.http.serving.hot_routes import HotRoutes
from services.api.http.serving.http_limits import HttpGuard, HttpLimits
from services.api.http.serving.listeners import empty_queues

log = logging.getLogger("relay.api")

_CLOSE = (b"connection", b"close")
STOP_TIMEOUT_S = 20
# New connections that one turn of the event loop takes.
ACCEPTED_AT_ONCE = 32


# Of the kernel, for each connection: what it buffers, doubled by Linux, and how long it tries to send what is not read. Left to
# itself it buffers megabytes for a client that does not read, and keeps them for minutes after the connection was closed.
SOCKET_BUFFER_BYTES = 128 * 1024


def server_config(
    app: Any,
    limits: HttpLimits | None = None,
    *,
    own_protocol: bool | None = None,
    is_known: Callable[[Any], bool] | None = None,
    **where: Any,
) -> uvicorn.Config:
    """How a process serves the API, and how the tests do.

    ``where``: host, port and the like. ``own_protocol``: by default whenever uvicorn is the one that it was written for.
    ``is_known`` tells from a scope whether the request shows a known key or signature; by default ``HotRoutes`` is asked.
    """
    if is_known is None:
        is_known = app.is_known if isinstance(app, HotRoutes) else lambda _: False
    http: Any = _own_protocol(HttpGuard(limits, is_known)) if own_protocol in (None, True) else "httptools"
    return uvicorn.Config(
        app,
        http=http,
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        ws="none",
        server_header=False,
        timeout_keep_alive=(limits or HttpLimits()).keep_alive_s,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        **where,
    )


def _own_protocol(guard: HttpGuard) -> Any:
    try:
        from services.api.http.serving.hot_protocol import HotProtocol  # imports what another uvicorn may not have
        from services.api.http.serving.uvicorn_internals import differences

        found = differences()
    except ImportError as error:
        found = [str(error)]
    if found:
        log.warning("serving with uvicorn's own protocol, without limits on connections: %s", "; ".join(found))
        return "httptools"
    return partial(HotProtocol, guard=guard)


class Drain:
    """Whether this process is about to end. ``failed``: the background task that ended it, if one did."""

    __slots__ = ("failed", "started")

    def __init__(self) -> None:
        self.started = False
        self.failed: str | None = None

    def fail(self, task: str) -> None:
        """A background task has ended by itself: the process no longer does what it is for."""
        self.failed = self.failed or task


class Server(uvicorn.Server):
    """``drain_s``: how long to go on answering after the first signal. A second signal ends the waiting."""

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_s: float) -> None:
        super().__init__(config)
        self._drain, self._drain_s = drain, drain_s
        self._close_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._bound_kernel_buffers()
        await self._accept_together()
        # The objects of the start stay. Collecting them again would stop all requests for a tenth of a second, now and then.
        gc.collect()
        gc.freeze()

    def _bound_kernel_buffers(self) -> None:
        """Accepted connections inherit the options of the socket that listens."""
        for listening in [each.fileno() for server in self.servers for each in server.sockets]:
            with socket.socket(fileno=os.dup(listening)) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
                same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
                if sys.platform == "linux" and same.family != socket.AF_UNIX:
                    patience_ms = int(HttpLimits().write_s * 1000)
                    same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)

    async def _accept_together(self) -> None:
        """Listens on the same sockets ``ACCEPTED_AT_ONCE`` times.

        Libuv accepts one connection of a listener in a turn of its loop, and under load a turn takes a tenth of a second. If
        hundreds of clients connect at once, as when another process was stopped, the last of them would wait too long.
        """
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
        if self._drain.failed is not None and not self._drain.started:
            log.critical("the background task %r has ended; this process ends too", self._drain.failed)
            self._drain.started = True
            self._close_at = time.monotonic() + self._drain_s
        if self._close_at is None:
            return ending
        if _CLOSE not in self.config.encoded_headers:
            log.info("stopping: answering for another %g s, then closing", self._drain_s)
            self.config.encoded_headers.append(_CLOSE)
            # Uvicorn itself would take up the new header with the next second.
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return ending or time.monotonic() >= self._close_at
