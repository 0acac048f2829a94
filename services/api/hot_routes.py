"""The two hot paths, as plain ASGI in front of the framework, and what every request shares: its id and its errors.

A handler gets the scope and the body and returns (status, body); errors are raised and become problems in one place.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Send

from services.api.problems import PayloadTooLarge, Problem, problem_of
from shared.errors import RelayError

log = logging.getLogger("relay.api")

Handler = Callable[[Any, bytes], Awaitable[bytes]]
_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")


def new_request_id() -> str:
    return "req_" + os.urandom(9).hex()


def header(scope: Any, name: bytes) -> str | None:
    """A request header; ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if the client went away. Raises ``PayloadTooLarge`` as soon as it is."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunk if len(chunks) == 1 else b"".join(chunks)


class HotRoutes:
    """Answers the hot paths itself and gives everything else to the framework. Every answer carries ``X-Request-Id``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes: dict[str, tuple[Handler, int]] = {}

    def post(self, path: str, handler: Handler, body_limit: int) -> None:
        """Adds a route. The handler returns the JSON body of a 200."""
        self._routes[path] = (handler, body_limit)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        id_header = (b"x-request-id", request_id.encode())
        route = self._routes.get(scope["path"])
        if route is None:
            await self._framework(scope, receive, send, request_id, id_header)
            return
        try:
            if scope["method"] != "POST":
                problem = Problem(405, "method_not_allowed", "only POST is known here", headers=(("allow", "POST"),))
            else:
                handler, limit = route
                body = await read_body(receive, limit)
                if body is None:
                    return
                await _send(send, 200, await handler(scope, body), (_JSON, id_header))
                return
        except RelayError as error:
            problem = problem_of(error)
        except (
            Exception
        ) as error:  # the outermost layer: whatever it is, the client gets an answer and the log the reason
            log.exception("request %s failed", request_id)
            problem = problem_of(error)
        headers = tuple((name.encode(), value.encode()) for name, value in problem.headers)
        if problem.status == 413:
            headers += ((b"connection", b"close"),)
        await _send(send, problem.status, problem.body(request_id), (_PROBLEM, id_header, *headers))

    async def _framework(
        self, scope: Any, receive: Receive, send: Send, request_id: str, id_header: tuple[bytes, bytes]
    ) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        scope["relay_request_id"] = request_id
        await self._app(scope, receive, send_with_id)


async def _send(send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
