"""Run uvicorn with a shutdown in two steps, so that replacing a process loses no request.

After the first signal the process goes on answering for a set time. `/readyz` answers 503 and every answer closes its
connection, so load balancers and keep-alive clients move to other processes. Then the process stops accepting, answers the
running requests and exits. Closing idle connections at once could hit a client that is just sending a request.
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
# New connections that one turn of the event loop accepts.
ACCEPTED_AT_ONCE = 8
# Python's default for the last is 10. A collection of all objects takes 0.1 s with a thousand busy connections, and would
# happen every five seconds. Under attack that made the 99th percentile of a token 60 ms instead of 12.
GC_THRESHOLDS = (700, 10, 60)


# The kernel's buffers of one connection (Linux doubles the value). By default the kernel buffers megabytes for a client that
# does not read, and keeps them for minutes after the connection is closed.
SOCKET_BUFFER_BYTES = 128 * 1024


def server_config(
    app: Any,
    limits: HttpLimits | None = None,
    *,
    own_protocol: bool | None = None,
    is_known: Callable[[Any], bool] | None = None,
    **where: Any,
) -> uvicorn.Config:
    """Build uvicorn's configuration, for the API's processes and for the tests.

    ``where``: host, port and the like. ``own_protocol``: use ``HotProtocol``; by default if the installed uvicorn is the one
    that it was written for. ``is_known`` returns from an ASGI scope whether the request shows a known key or signature; by
    default the method of ``HotRoutes``.
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
        from services.api.http.serving.hot_protocol import HotProtocol  # its imports may fail with another uvicorn
        from services.api.http.serving.uvicorn_internals import differences

        found = differences()
    except ImportError as error:
        found = [str(error)]
    if found:
        log.warning("serving with uvicorn's own protocol, without limits on connections: %s", "; ".join(found))
        return "httptools"
    return partial(HotProtocol, guard=guard)


class Drain:
    """The shutdown of this process. ``failed``: the background task whose failure caused it, if any."""

    __slots__ = ("failed", "started")

    def __init__(self) -> None:
        self.started = False
        self.failed: str | None = None

    def fail(self, task: str) -> None:
        """Shut the process down because a background task has ended: part of its work is no longer done."""
        self.failed = self.failed or task


class Server(uvicorn.Server):
    """Uvicorn's server with a drain of ``drain_s`` seconds. A second signal ends the drain."""

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_s: float) -> None:
        super().__init__(config)
        self._drain, self._drain_s = drain, drain_s
        self._close_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._bound_kernel_buffers()
        await self._accept_together()
        # Objects made at start live as long as the process. Scanning them would now and then stop all requests for 0.1 s.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    def _bound_kernel_buffers(self) -> None:
        """Limit the kernel's buffers. Accepted connections inherit the options of the listening socket."""
        for listening in [each.fileno() for server in self.servers for each in server.sockets]:
            with socket.socket(fileno=os.dup(listening)) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
                same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
                if sys.platform == "linux" and same.family != socket.AF_UNIX:
                    patience_ms = int(HttpLimits().write_s * 1000)
                    same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)

    async def _accept_together(self) -> None:
        """Listen on the same sockets ``ACCEPTED_AT_ONCE`` times.

        Libuv accepts one connection per listener in a turn of its loop, and under load a turn takes a tenth of a second. When
        hundreds of clients connect at once, for example after another process was stopped, the last would wait too long.
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
        """Accept every connection that the kernel has completed, then shut down as uvicorn does."""
        listening = {each.fileno() for server in self.servers for each in server.sockets}
        duplicates = [socket.socket(fileno=os.dup(each)) for each in listening]
        await empty_queues([each for each in duplicates if each.family != socket.AF_UNIX])
        for each in duplicates:
            each.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Uvicorn's own handler raises the signal again at the end, and the process would then appear to be killed by it.
        """
        if self._drain.started:
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True
            return
        self._drain.started = True
        self._close_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server must stop. Uvicorn calls this ten times a second."""
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
            # Uvicorn would only use the new header from the next second on.
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return ending or time.monotonic() >= self._close_at
