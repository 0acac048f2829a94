"""A connection that answers by itself where the application does not, and that the guard checks once a second."""

import asyncio
import math
from typing import Any

from services.api.http.serving.early_answers import AnsweredHere, AnswerHeads, closing_answer, error_answer
from services.api.http.serving.held_flow import HeldFlow
from services.api.http.serving.hot_routes import Answer
from services.api.http.serving.http_limits import HttpGuard
from services.api.http.serving.unread_answers import UnreadAnswers, reset_connection
from services.api.http.serving.uvicorn_internals import HttpToolsProtocol
from shared.errors import RequestTimedOut


class WatchedConnection(HttpToolsProtocol):
    """A connection with time limits and early answers. ``GuardedProtocol`` adds how requests are received."""

    flow: HeldFlow

    def __init__(self, *args: Any, guard: HttpGuard | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard or HttpGuard()
        self._limits = self._guard.limits
        self._held = self._guard.bodies.hold()
        # Loop time at which the request that is being received began. None while nothing is received.
        self._since: float | None = None
        # Loop times: when the last answer was complete, and when the guard last checked this connection.
        self._answered = self._looked = 0.0
        self._in_headers = True
        self._closes_after_body = False
        # Loop time of the last answer on a connection that is being closed.
        self._refused: float | None = None
        # Bytes that arrived behind a request that is being answered, and the offset of the first one. Parsed after the answer.
        self._rest: tuple[bytes, int] | None = None
        self._unread: UnreadAnswers | None = None
        self._heads = AnswerHeads()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self.flow = HeldFlow(transport)
        self._since = self._answered = self.loop.time()
        self._guard.joined(self.connections, self.loop)

    def close_after_body(self) -> None:
        if self._since is None or self._in_headers:
            self.transport.close()
        else:
            self._closes_after_body = True

    # Refusing
    def refuse(self, error: Exception) -> None:
        """Answer with ``error`` unless an answer has begun, then close the connection."""
        if self.transport.is_closing() or self._refused is not None:
            return
        if self._may_answer():
            self.transport.write(closing_answer(error))
            if not self._in_headers:  # tells the application that the client is gone
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            if self.transport.can_write_eof():
                # Until the guard's next check, what the client still sends is read and discarded: see ``ClosedAfterBody``.
                self.transport.write_eof()
                self._refused = self.loop.time()
                self.flow.resume_reading()
                return
        self.transport.close()

    def _may_answer(self) -> bool:
        if self._in_headers:  # the cycle still belongs to the previous request
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started and not self.pipeline

    def answer_early(self, error: Exception) -> None:
        """Answer a request before its body has arrived.

        The body is read and discarded. Closing a connection with unread data resets it, and the client might not see the
        answer.
        """
        cycle = self.cycle
        if self._in_headers:
            self.refuse(error)
            return
        if cycle.response_started or self.pipeline:
            self.transport.close()
            return
        answer = error_answer(error, self.scope)
        if self.parser.get_method() == b"HEAD":  # the next answer of the connection follows its head
            answer = answer._replace(body=b"")
        cycle.disconnected = True
        cycle.message_event.set()
        request = AnsweredHere(cycle.keep_alive and b"close" not in dict(answer.headers).get(b"connection", b""))
        self.cycle = request  # type: ignore[assignment]  # see AnsweredHere
        self.write_answer(request, answer)

    def write_answer(self, request: AnsweredHere, answer: Answer) -> None:
        if self.transport.is_closing() or self._refused is not None:  # the client is gone, or has its last answer
            return
        request.response_started = request.response_complete = True
        request.body = b""
        head, request.keep_alive = self._heads.head(answer, self.server_state.default_headers, request.keep_alive)
        self.transport.write(head + answer.body)
        if not request.keep_alive:
            self.close_after_body()
        self.on_response_complete()

    # Called by the guard
    @property
    def has_shown_key(self) -> bool:
        """Whether one of its requests has shown a key or a signature."""
        return self._held.was_admitted

    def look(self, now: float) -> int:
        """Enforce the time limits. Return how many bytes of answers the client has not read."""
        if self._refused is not None:
            if now > self._refused:
                self.transport.close()
        elif not self.transport.is_closing():
            if self._since is not None:
                allowed = self._limits.headers_s if self._in_headers else self._limits.request_s
                # Headers of a pipelined request stay unread until the previous request is answered.
                behind = self._in_headers and self.cycle is not None and not self.cycle.response_complete
                if not behind and now - max(self._since, self._answered) >= allowed:
                    self.refuse(RequestTimedOut(allowed))
            elif (since := self.waiting_since()) is not None and now - since >= self.timeout_keep_alive:
                self.transport.close()
        return self._unread_bytes(now)

    def waiting_since(self) -> float | None:
        """Return since when the connection waits for its client. None while a request is being answered."""
        if self._since is not None:
            return self._since
        idle = (self.cycle is None or self.cycle.response_complete) and not self.pipeline and self._rest is None
        return self._answered if idle else None

    def stuck_since(self) -> float:
        """Return when the client last read part of an unfinished answer. Infinity if it has read all."""
        return self._unread.since() if self._unread is not None else math.inf

    def _unread_bytes(self, now: float) -> int:
        looked, self._looked = self._looked, now
        answering = self.cycle is not None and not self.cycle.response_complete
        unread = self._unread
        if not answering and (unread is None or not unread.is_stuck) and self._answered < looked:
            return 0
        if unread is None:
            unread = self._unread = UnreadAnswers(self.transport)
        size = unread.look(now, self._limits.read_bytes)
        if now - unread.since() >= self._limits.write_s:
            self.cut()
            return 0
        return size

    def cut(self) -> None:
        """Reset the connection, which frees the kernel's buffers at once."""
        reset_connection(self.transport)
