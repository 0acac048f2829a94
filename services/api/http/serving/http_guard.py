"""Receive HTTP requests within limits of size, and call the application for clients without a key in turns.

Uvicorn limits only how long a connection may be idle.
"""

import math
from functools import partial
from typing import Any, Final

import httptools

from services.api.http.serving.early_answers import ClosedAfterBody
from services.api.http.serving.http_limits import HELD_BODY, content_length, may_hold_bytes
from services.api.http.serving.uvicorn_internals import RequestResponseCycle
from services.api.http.serving.watched_connection import WatchedConnection
from shared.errors import HeadersTooLarge, MalformedRequest, TooManyBodies

# A segment up to this size is parsed at once. A larger one is parsed request by request, so that thousands of requests that
# arrive together do not become thousands of objects.
_WHOLE: Final = 3072
# Bytes that are parsed in one call where no end of a request is near.
_AT_ONCE: Final = 512
# Estimated memory of a pipelined request that waits for the one before it.
_QUEUED_BYTES: Final = 4096
_PIECE: Final = 4096
# Requests of one segment that are answered in one turn of the event loop.
_ANSWERED_AT_ONCE: Final = 16


class GuardedProtocol(WatchedConnection):
    """A connection that limits the time and the memory a client may take.

    It answers 408 to a request that does not arrive in time, 431 to headers that are too large and 503 when all requests
    together are too large. It closes the connection of a client that does not read its answers. A client without a key waits
    for its turn: see ``turns``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rest_held = self._guard.bodies.hold()
        # `_bytes`: received since the request began or, after its headers, since they ended. `_body_bytes`: of its body.
        self._bytes = self._body_bytes = 0
        # True while reading is paused until this connection's turn.
        self._waits_for_turn = False
        # The request for which the application was last called.
        self._asked: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = None
        self._rest_held.release()
        self._held.release()
        if self._asked is not None:
            # Uvicorn notifies only the newest request. An earlier one that is being answered would go on writing.
            self._asked.disconnected = True
            self._asked.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._refused is not None:
            self.transport.close()
            return
        age_s = self.loop.time() - self._since if self.cycle is None and self._since is not None else math.inf
        if age_s < self._limits.young_s:
            self.loop.call_later(self._limits.young_s - age_s, super().shutdown)
        else:
            super().shutdown()

    # Receiving
    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            self._wait_for_turn()
            return
        if self._since is None:
            cycle = self.cycle
            if self._rest is not None or not (cycle is None or cycle.response_complete):
                self._put_aside(data, 0)
                return
            # An empty line sets this too. It does not begin a request, but the connection is no longer idle.
            self._since = self.loop.time()
            size = len(data)
            if size <= _WHOLE:  # the usual case, with as few calls as possible
                self._bytes += size
                try:
                    self.parser.feed_data(data)
                except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
                    self._parse(data, self._parsed(error, size))
                    return
                if self._since is not None or self.pipeline:
                    self._unfinished()
                return
        self._parse(data, 0)

    def _put_aside(self, data: bytes, start: int) -> None:
        if self._rest is not None:
            before, begin = self._rest
            data, start = before[begin:] + data[start:], 0
        self._rest = data, start
        self.flow.pause_reading()
        if self._held.is_admitted:
            self._rest_held.admit()
        if not self._rest_held.grow_to(len(data)):
            self.cut()

    def _parse(self, data: bytes, start: int) -> None:
        end, view, answered = len(data), memoryview(data), 0
        while start < end and not self.transport.is_closing() and self._refused is None:
            if self._since is None and self.cycle is not None and not self.cycle.response_complete:
                self._put_aside(data, start)
                break
            stop = end if end - start <= _AT_ONCE else self._end_of_piece(data, start)
            start += self._feed(view[start:stop])
            if self._since is None:
                answered += 1
                if answered >= _ANSWERED_AT_ONCE and start < end and self._rest is None:
                    self._put_aside(data, start)
                    self._guard.turns.read(self._parse_rest, self.loop)
                    break
        if self._since is not None or self.pipeline:
            self._unfinished()

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """Return where the next piece ends: close behind the end of a request, if that end is near."""
        if self._in_headers or self._since is None:
            found = data.find(b"\r\n\r\n", start, start + _PIECE)
            return found + 4 if found >= 0 else start + _PIECE
        announced = content_length(self.headers)
        return start + (_AT_ONCE if announced is None else max(1, announced - self._body_bytes))

    def _feed(self, piece: memoryview) -> int:
        """Parse a piece. Return the number of bytes that were parsed."""
        self._bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            return self._parsed(error, len(piece))
        return len(piece)

    def _parsed(self, error: Exception, size: int) -> int:
        """Return how many of ``size`` bytes were parsed before the parser raised ``error``."""
        if isinstance(error, httptools.HttpParserUpgrade):
            self._read_again()
            return int(error.args[0])
        self.refuse(MalformedRequest())
        return size

    def _unfinished(self) -> None:
        """Apply the size limits when a segment ends before its request, or with pipelined requests that wait."""
        if self._refused is not None or self.transport.is_closing():
            return
        if self.pipeline and not self._held.grow_to(len(self.pipeline) * _QUEUED_BYTES):
            self.cut()
            return
        if self._since is None:
            return
        size = self._bytes if self._in_headers else self._body_bytes
        if self._in_headers and size > self._limits.headers_bytes:
            self.refuse(HeadersTooLarge(self._limits.headers_bytes))
        elif self._bytes > self._limits.request_bytes:
            self.transport.close()
        elif not self.is_answered() and not self._held.grow_to(size):
            self.answer_early(TooManyBodies())
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Stop reading from a client without a key until its turn comes."""
        if not self._waits_for_turn and not self._held.is_admitted:
            self._waits_for_turn = True
            self.flow.hold()
            self._guard.turns.read(self._read_on, self.loop)

    def _read_on(self) -> None:
        self._waits_for_turn = False
        if not self.transport.is_closing():
            self.flow.free()

    def is_answered(self) -> bool:
        """Return whether the request that is being received already has its answer."""
        return not self._in_headers and self.cycle is not None and self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._body_bytes = True, 0
        if self._since is None:
            self._since = self.loop.time()

    def headers_are_over(self) -> None:
        self._in_headers, self._bytes = False, 0

    def on_headers_complete(self) -> None:
        if self._asks_for_upgrade():
            self.headers_are_over()
            return
        super().on_headers_complete()  # raises for a target that is not a path, which counts as an error of the headers
        self.scope[HELD_BODY] = self._held  # type: ignore[typeddict-unknown-key]  # an entry of our own in ASGI's dict
        self.cycle.transport = ClosedAfterBody(self.transport, self.close_after_body)  # type: ignore[assignment]  # all of it that a cycle uses
        self.headers_are_over()
        if not self.pipeline and may_hold_bytes(self.headers) and self._guard.is_known(self.scope):
            self._held.admit()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._guard.bodies.freed += len(body)  # the request was refused before its body came; the body is discarded
            return
        if self._held.grow_to(self._body_bytes):
            super().on_body(body)
        else:
            self.answer_early(TooManyBodies())

    def on_message_complete(self) -> None:
        if self._asks_for_upgrade():
            return
        super().on_message_complete()
        self._since, self._in_headers, self._bytes = None, True, 0
        if self._closes_after_body:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Call the application: at once for a client with a key, otherwise when the client's turn comes."""
        turns = self._guard.turns
        if not turns.may_start and self._guard.is_known(cycle.scope):
            self._start(cycle, app)
        else:
            turns.start(partial(self._start, cycle, app), self.loop)

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return  # while it waited, the request was refused or the client left
        self._asked = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Continue with the next request. Replaces uvicorn's method, which starts a timer for each answer."""
        self.server_state.total_requests += 1
        self._answered = self.loop.time()
        if (self._held.bytes or self._held.is_admitted) and not self.pipeline:
            self._held.release()  # the next request of the connection shows its own key
        asked = self._asked
        if asked is not None and asked.body:
            asked.body = bytearray()  # frees the part of a body that the application did not read
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._rest is not None:
            self.loop.call_soon(self._parse_rest)
        else:
            if self._since is not None:  # answered before its body came
                self._wait_for_turn()
            self.flow.resume_reading()

    def _parse_rest(self) -> None:
        if self._rest is None or self.transport.is_closing() or self._refused is not None or self.pipeline:
            return
        (data, start), self._rest = self._rest, None
        self._rest_held.release()
        self.flow.resume_reading()
        self._since = self.loop.time()
        self._parse(data, start)

    def _asks_for_upgrade(self) -> bool:
        asks: bool = self.parser.should_upgrade()
        return asks and self.parser.get_method() != b"CONNECT"

    def _should_upgrade(self) -> bool:
        return False  # Relay serves no WebSocket

    def _read_again(self) -> None:
        """Parse the request again without its `Upgrade` header.

        Java's HTTP client asks for HTTP/2 with every request, and the parser then treats what follows the headers as HTTP/2.
        The body would be lost, or be read as the next request if it arrives later (request smuggling: a client that can make
        a proxy send a body could then make it send requests).
        """
        if self.parser.get_method() == b"CONNECT":
            self.cycle.keep_alive = False
            return
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(memoryview(b"".join([*head, b"\r\n"])))
