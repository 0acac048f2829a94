"""Connections that ask for nothing, slowly. Uvicorn bounds how long a connection may idle between requests, and nothing else: a
client that opens one and sends a byte a minute would hold it for ever, and headers have no end. And that bound is a timer for
each answer."""

import asyncio
import math
import sys
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from services.api.hot_routes import new_request_id
from services.api.problems import MEDIA_TYPE, TITLES, Problem, problem_of
from shared.errors import HeadersTooLarge, MalformedRequest, RequestTimedOut
from shared.logs import request_id

# Seconds from the first byte (of a new connection: from its opening) to the end of the headers, and to the end of the body.
HEADERS_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 30.0
# When the process ends, a connection younger than this is waited for: its first request is on its way.
YOUNG_S: Final = 0.5
# Bytes that may arrive before the headers are over, and after: more than any route takes, with room for the chunks' own. Beyond
# it are bodies that were refused already, and trailers without end.
HEADERS_LIMIT: Final = 64 * 1024
REQUEST_LIMIT: Final = 4 * 1024 * 1024


class GuardedProtocol(HttpToolsProtocol):
    """Answers 408 to a request that does not arrive in time and 431 to one whose headers are too large, and hangs up.

    One timer a connection, which looks now and then how old the request is that is being received, or how long nothing came: a
    timer for each request would cost the hot paths more than all the rest of this."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # When what is being received began, in the loop's time; None while nothing is.
        self._since: float | None = None
        # When the last answer was complete.
        self._answered = 0.0
        self._in_headers = True
        self._bytes = 0
        self._segment: Any = b""
        # A request to be read again: its head, and what came behind that.
        self._again: tuple[bytes, memoryview] | None = None
        self._watch: asyncio.TimerHandle | None = None
        # What the application was last asked.
        self._asked: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch = self.loop.call_later(HEADERS_TIMEOUT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._asked is not None:
            # Uvicorn tells it to the request that came last. The one that is being answered, with others behind it, would go on
            # writing to nobody, or stream to them.
            self._asked.disconnected = True
            self._asked.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        age_s = self.loop.time() - self._since if self.cycle is None and self._since is not None else math.inf
        if age_s < YOUNG_S:
            self.loop.call_later(YOUNG_S - age_s, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._since is None and (self.cycle is None or self.cycle.response_complete):
            # Perhaps only an empty line, which begins no request, and which ends uvicorn's wait for the next one all the same.
            self._since = self.loop.time()
        self._bytes += len(data)
        self._segment = data
        super().data_received(data)
        while self._again is not None and not self.transport.is_closing():
            # As many as one segment holds: in turn, not one within the other, and without a copy of the rest for each.
            (head, self._segment), self._again = self._again, None
            super().data_received(head)
            super().data_received(self._segment)
        if self._bytes > HEADERS_LIMIT and self._in_headers:
            self._refuse(problem_of(HeadersTooLarge(HEADERS_LIMIT)))
        elif self._bytes > REQUEST_LIMIT:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        if self._since is None:
            self._since = self.loop.time()

    def headers_are_over(self) -> None:
        self._in_headers, self._bytes = False, 0

    def on_headers_complete(self) -> None:
        if not self._asks_for_upgrade():
            super().on_headers_complete()  # fails for a target that is no path: an error of the headers
        self.headers_are_over()

    def on_message_complete(self) -> None:
        if self._asks_for_upgrade():
            return
        super().on_message_complete()
        self._since, self._in_headers, self._bytes = None, True, 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._asked = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer that it would start."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._answered = self.loop.time()

    def _asks_for_upgrade(self) -> bool:
        asks: bool = self.parser.should_upgrade()
        return asks and self.parser.get_method() != b"CONNECT"

    def _should_upgrade(self) -> bool:
        return False  # to nothing: no page of ours speaks WebSocket

    def _unsupported_upgrade_warning(self) -> None:
        """Reads the request again as one that asks for no upgrade. Java's own client, for one, asks for HTTP/2 with every
        request; the parser takes what follows the headers for HTTP/2 then. The body would be lost, or, coming a moment later,
        be read as the next request: whoever can make a proxy send a body could make it send requests of their own."""
        if self.parser.get_method() == b"CONNECT":
            self.cycle.keep_alive = False
            return
        upgrade = sys.exc_info()[1]  # uvicorn calls this where it has caught it
        assert isinstance(upgrade, httptools.HttpParserUpgrade)  # noqa: S101  # as above
        rest = memoryview(self._segment)[upgrade.args[0] :]
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self._again = b"".join([*head, b"\r\n"]), rest
        self.parser = httptools.HttpRequestParser(self)

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP."""
        self._refuse(problem_of(MalformedRequest()))

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        due = HEADERS_TIMEOUT_S
        if self._since is not None:
            allowed = HEADERS_TIMEOUT_S if self._in_headers else REQUEST_TIMEOUT_S
            due = self._since + allowed - self.loop.time()
            if due <= 0:
                self._refuse(problem_of(RequestTimedOut(allowed)))
                return
        elif self.cycle.response_complete and not self.pipeline:
            idle_s = self.loop.time() - self._answered
            if idle_s >= self.timeout_keep_alive:
                self.transport.close()
                return
            due = min(due, self.timeout_keep_alive - idle_s)
        self._watch = self.loop.call_later(due, self._look)

    def _refuse(self, problem: Problem) -> None:
        """Answers where no answer has begun, and hangs up."""
        if self.transport.is_closing():
            return
        if self._may_answer():
            identifier = request_id.set(new_request_id())
            body = problem.body()
            head = f"HTTP/1.1 {problem.status} {TITLES[problem.status]}\r\nconnection: close\r\n"
            head += (
                f"content-type: {MEDIA_TYPE}\r\nx-request-id: {request_id.get()}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            request_id.reset(identifier)  # what is logged next is of another request
        self.transport.close()

    def _may_answer(self) -> bool:
        if self._in_headers:  # the cycle is still that of the request before
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started and not self.pipeline
