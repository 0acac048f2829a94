"""The two hot paths, as plain ASGI in front of the framework, and what every request shares: its id and its errors.

A handler gets the scope and the body and returns (status, body); errors are raised and become problems in one place.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.types import Message, Receive, Send
from litestar.utils import normalize_path

from services.api.gate import ANSWER_HEADERS
from services.api.head import as_get
from services.api.problems import MEDIA_TYPE, PayloadTooLarge, Problem, problem_of
from shared import metrics
from shared.logs import request_id

log = logging.getLogger("relay.api")

Handler = Callable[[Any, bytes], Awaitable[bytes]]
Headers = tuple[tuple[bytes, bytes], ...]
_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", MEDIA_TYPE.encode())
# No answer of ours is a page or a script, whatever a browser may sniff, and none may be kept by a cache: they hold tokens.
_EVERYWHERE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


def new_request_id() -> str:
    """Ours, never the client's: what is searched for in the log must be unique and hold nothing a stranger wrote."""
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
    """Answers the hot paths itself and gives everything else to the framework. Every answer carries ``X-Request-Id``.

    The framework knows the same paths (``routes/``): that is where they are described, and where other methods are refused.
    """

    def __init__(self, app: Litestar) -> None:
        self._app = app
        self._methods = {
            route.path_format: ", ".join(sorted(route.methods)).encode()
            for route in app.routes
            if isinstance(route, HTTPRoute)
        }
        self._routes: dict[str, tuple[Handler, int]] = {}

    def post(self, path: str, handler: Handler, body_limit: int) -> None:
        """Adds a route. The handler returns the JSON body of a 200."""
        self._routes[path] = (handler, body_limit)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = new_request_id()
        request_id.set(identifier)
        shared = ((b"x-request-id", identifier.encode()), *_EVERYWHERE)
        # The framework reads `/v1/tokens/` and `//v1/tokens` as `/v1/tokens`, and would count a token as any other request.
        route = self._routes.get(scope["path"]) or self._routes.get(normalize_path(scope["path"]))
        if route is None or scope["method"] != "POST":
            await self._framework(scope, receive, send, shared)
            return
        handler, limit = route
        try:
            body = await read_body(receive, limit)
            if body is None:
                return
            answer = await handler(scope, body)
        except (
            Exception
        ) as error:  # the outermost layer: whatever it is, the client gets an answer and the log the reason
            problem = problem_of(error)
            if problem.status == 500:
                log.exception("request %s failed", identifier)
            await _send_problem(send, problem, (*shared, *scope.get(ANSWER_HEADERS, ())))
        else:
            await _send(send, 200, answer, (_JSON, *shared, *scope.get(ANSWER_HEADERS, ())))

    async def _framework(self, scope: Any, receive: Receive, send: Send, shared: Headers) -> None:
        started, status = time.perf_counter(), 0
        scope = as_get(scope)

        async def send_with_shared(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                if scope["method"] == "OPTIONS" and scope.get("path_template") in self._methods:
                    # Litestar's own answer lists only the methods that were there when it made this address.
                    headers = [header for header in headers if header[0].lower() != b"allow"]
                    headers.append((b"allow", self._methods[scope["path_template"]]))
                given = {name.lower() for name, _ in headers}
                further = (*shared, *scope.get(ANSWER_HEADERS, ()))
                message["headers"] = [*headers, *(header for header in further if header[0] not in given)]
            await send(message)

        await self._app(scope, receive, send_with_shared)
        # The route as it is declared: a path holds names that strangers chose, and there is no end of them.
        labels = (_METHODS.get(scope["method"], "other"), scope.get("path_template") or "none", str(status))
        metrics.request_seconds.labels(*labels).observe(time.perf_counter() - started)


async def _send_problem(send: Send, problem: Problem, shared: Headers) -> None:
    headers = ((name.encode(), value.encode()) for name, value in problem.headers)
    await _send(send, problem.status, problem.body(), (_PROBLEM, *shared, *headers))


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
