"""Connections that answer the hot routes themselves, where the last byte of the request is read.

Uvicorn makes a task, an event, and messages of each request, and writes head and body of the answer apart: several times what
minting a token costs. None of that is needed for a request that can be answered from memory. Whatever is out of the ordinary,
in the request (chunked, large, pipelined, of HTTP/1.0, `Expect`) or in answering it (a key that this process does not know),
goes the way of all others: uvicorn and the application, which answer the same routes with the same functions.
"""

import asyncio
from functools import partial
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from services.api.connections import GuardedProtocol
from services.api.hot_routes import Answer, AtOnce, HotRoutes, Waiting, new_request_id
from shared.logs import request_id

# Larger bodies need flow control. Those of LiveKit with names and metadata of a usual length have 2 kB.
BODY_LIMIT: Final = HIGH_WATER_LIMIT
_CLOSE = b"connection: close\r\n"


class _NobodyWaits:
    """In place of the event that tells a task of uvicorn's that something came."""

    def set(self) -> None:
        pass


class _InHand:
    """A request that is answered here, as uvicorn's protocol knows it: by the attributes of a ``RequestResponseCycle``."""

    __slots__ = ("at_once", "body", "disconnected", "keep_alive", "more_body", "response_complete", "response_started")
    message_event = _NobodyWaits()

    def __init__(self, at_once: AtOnce, keep_alive: bool) -> None:
        self.at_once, self.keep_alive = at_once, keep_alive
        self.body, self.more_body = b"", True
        self.disconnected = self.response_started = self.response_complete = False


class HotProtocol(GuardedProtocol):
    """Only where the application is ``HotRoutes`` itself: what stands around it, such as tracing, must see all requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        self._at_once = app.at_once if isinstance(app, HotRoutes) else {}
        # The headers of every answer (the date), as they were last put together, and from what.
        self._shared_of: Any = None
        self._shared = b""

    def on_headers_complete(self) -> None:
        at_once = self._at_once.get(self.url)
        if at_once is None or not self._is_plain():
            super().on_headers_complete()
            return
        self.headers_are_over()
        self.cycle = _InHand(at_once, self.parser.should_keep_alive())  # type: ignore[assignment]  # see there

    def _is_plain(self) -> bool:
        """Whether there is nothing to this request but its body, and nothing before it that waits."""
        parser, before = self.parser, self.cycle
        if (
            parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
            or self.expect_100_continue
            or self.flow.write_paused  # a client that sends and does not read
            or not (before is None or before.response_complete)
        ):
            return False
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) <= BODY_LIMIT
        return False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        request: Any = self.cycle
        if type(request) is _InHand and not request.response_started:
            self._answer(request)

    def _answer(self, request: _InHand) -> None:
        scope: Any = self.scope
        identifier = new_request_id()
        before = request_id.set(identifier)
        try:
            found = request.at_once(scope, request.body)
        except Exception as error:  # the outermost layer, as in HotRoutes
            self._write(request, Answer.of_error(error, scope, identifier))
        else:
            if found is None:
                self._hand_over(request.body)
            elif isinstance(found, Waiting):
                found.until.add_done_callback(partial(self._waited, request, scope, identifier, found.body))
            else:
                self._write(request, Answer.of_body(found, scope, identifier))
        finally:
            request_id.reset(before)

    def _waited(
        self, request: _InHand, scope: Any, identifier: str, body: bytes, until: "asyncio.Future[None]"
    ) -> None:
        before = request_id.set(identifier)
        try:
            until.result()
        except Exception as error:
            answer = Answer.of_error(error, scope, identifier)
        else:
            answer = Answer.of_body(body, scope, identifier)
        request_id.reset(before)
        self._write(request, answer)

    def _hand_over(self, body: bytes) -> None:
        """To the application, after all."""
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        super().on_headers_complete()
        super().on_body(body)
        super().on_message_complete()

    def _write(self, request: _InHand, answer: Answer) -> None:
        if self.transport.is_closing():  # the client is gone, or was told to go
            return
        request.response_started = request.response_complete = True
        shared = self.server_state.default_headers
        if shared is not self._shared_of:
            self._shared_of, self._shared = shared, b"".join(b"%b: %b\r\n" % header for header in shared)
        closing = _CLOSE in self._shared
        head = [STATUS_LINE[answer.status], self._shared, *[b"%b: %b\r\n" % header for header in answer.headers]]
        if not request.keep_alive and not closing:
            head.append(_CLOSE)
        self.transport.write(b"".join((*head, b"\r\n", answer.body)))
        if closing or not request.keep_alive:
            self.transport.close()
        self.on_response_complete()
