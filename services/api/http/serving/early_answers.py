"""Write answers without the application, some of them before the body has arrived."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from services.api.http.problems import MEDIA_TYPE, TITLES, problem_of
from services.api.http.serving.hot_routes import Answer, new_request_id
from services.api.http.serving.uvicorn_internals import STATUS_LINE
from shared.infra.logs import request_id

_CLOSE_LINE: Final = b"connection: close\r\n"


class _NobodyWaits:
    """A stand-in for the event that wakes uvicorn's task of a request: there is no task here."""

    def set(self) -> None:
        pass


class AnsweredHere:
    """A request that the connection answers itself.

    It has the attributes of ``RequestResponseCycle`` that uvicorn's protocol uses.
    """

    __slots__ = ("body", "disconnected", "keep_alive", "more_body", "response_complete", "response_started")
    message_event = _NobodyWaits()

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.body, self.more_body = b"", True
        self.disconnected = self.response_started = self.response_complete = False


class ClosedAfterBody:
    """The transport of a request whose ``close`` waits for the end of the body.

    The answer may come before the body has arrived. The kernel resets a connection that is closed with unread data, and the
    client might then not see the answer.
    """

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close_after_body: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close_after_body


class AnswerHeads:
    """Builds the head of an answer. Caches the headers that all answers share until the date changes."""

    __slots__ = ("_bytes", "_closes", "_shared")

    def __init__(self) -> None:
        self._shared: Any = None
        self._bytes, self._closes = b"", False

    def head(self, answer: Answer, shared: list[tuple[bytes, bytes]], keep_alive: bool) -> tuple[bytes, bool]:
        """Return the head of the answer, and whether the connection stays open after it."""
        if shared is not self._shared:
            self._shared, self._bytes = shared, b"".join(b"%b: %b\r\n" % header for header in shared)
            self._closes = _CLOSE_LINE in self._bytes
        lines = [STATUS_LINE[answer.status], self._bytes, *[b"%b: %b\r\n" % header for header in answer.headers]]
        if not keep_alive and not self._closes and not any(name == b"connection" for name, _ in answer.headers):
            lines.append(_CLOSE_LINE)
        lines.append(b"\r\n")
        return b"".join(lines), keep_alive and not self._closes


def closing_answer(error: Exception) -> bytes:
    """Return the whole answer to a request that is refused, with `Connection: close`."""
    before = request_id.set(new_request_id())
    problem = problem_of(error)
    body = problem.body()
    lines = [f"HTTP/1.1 {problem.status} {TITLES[problem.status]}", "connection: close"]
    lines += [f"content-type: {MEDIA_TYPE}", f"x-request-id: {request_id.get()}"]
    lines += [f"{name}: {value}" for name, value in problem.headers]
    lines += [f"content-length: {len(body)}", "", ""]
    request_id.reset(before)  # the next log line belongs to another request
    return "\r\n".join(lines).encode() + body


def error_answer(error: Exception, scope: Any) -> Answer:
    """Return the answer to a request that fails before its body has arrived."""
    identifier = new_request_id()
    before = request_id.set(identifier)
    answer = Answer.of_error(error, scope, identifier)
    request_id.reset(before)
    return answer
