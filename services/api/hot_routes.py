"""The two hot paths, as plain ASGI in front of the framework, and what every request shares: its id and its errors.

A handler gets the scope and the body and returns the body of a 200; errors are raised and become problems in one place.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.types import Message, Receive, Send
from litestar.utils import normalize_path

from services.api.authentication import ANSWER_HEADERS, headers_of_answer
from services.api.head import as_get
from services.api.problems import MEDIA_TYPE, problem_of
from services.api.room_paths import with_whole_names
from shared import metrics
from shared.errors import PayloadTooLarge
from shared.logs import request_id

log = logging.getLogger("relay.api")

Headers = tuple[tuple[bytes, bytes], ...]


class Waiting(NamedTuple):
    """The body of a 200, once the future is done. Its error is the request's."""

    until: "asyncio.Future[None]"
    body: bytes


# Gets the scope and the body of a request, and returns the body of a 200 or raises.
Handler = Callable[[Any, bytes], Awaitable[bytes]]
# The same without a coroutine, where that is possible. None: it takes I/O, ask the handler; nothing was counted or changed.
AtOnce = Callable[[Any, bytes], "bytes | Waiting | None"]
_JSON = (b"content-type", b"application/json")
_STREAM = b"text/event-stream"
_PROBLEM = (b"content-type", MEDIA_TYPE.encode())
# No answer of ours is a page or a script, whatever a browser may sniff, and none may be kept by a cache: they hold tokens.
_EVERYWHERE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))

_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

# Seeded by the system, and asked a hundred thousand times a second for what must be unique and need not be a secret.
_random_bits = random.Random().getrandbits  # noqa: S311  # see above


def new_request_id() -> str:
    """Ours, never the client's: what is searched for in the log must be unique and hold nothing a stranger wrote."""
    return f"req_{_random_bits(72):018x}"


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


class Answer(NamedTuple):
    """A whole answer of a hot path; ``headers`` include its length."""

    status: int
    body: bytes
    headers: Headers

    @classmethod
    def of_body(cls, body: bytes, scope: Any, identifier: str) -> "Answer":
        further = scope.get(ANSWER_HEADERS, ())
        return cls(200, body, (_JSON, *_shared(identifier), *further, (b"content-length", b"%d" % len(body))))

    @classmethod
    def of_error(cls, error: Exception, scope: Any, identifier: str) -> "Answer":
        """Whatever it is, the client gets an answer and the log the reason."""
        problem = problem_of(error)
        if problem.status == 500:
            log.error("request %s failed", identifier, exc_info=error)
        body = problem.body()
        own = ((name.encode(), value.encode()) for name, value in problem.headers)
        length = (b"content-length", b"%d" % len(body))
        further = scope.get(ANSWER_HEADERS, ())
        return cls(problem.status, body, (_PROBLEM, *_shared(identifier), *further, *own, length))

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def _shared(identifier: str) -> Headers:
    """The headers of every answer."""
    return ((b"x-request-id", identifier.encode()), *_EVERYWHERE)


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
        # By the target of a request, for ``HotProtocol``.
        self.at_once: dict[bytes, AtOnce] = {}

    def post(self, path: str, handler: Handler, at_once: AtOnce, body_limit: int) -> None:
        """Adds a route. ``handler`` and ``at_once`` return the JSON body of a 200; they must come to the same."""
        self._routes[path] = (handler, body_limit)
        self.at_once[path.encode()] = at_once

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = new_request_id()
        request_id.set(identifier)
        # The framework reads `/v1/tokens/` and `//v1/tokens` as `/v1/tokens`, and would count a token as any other request.
        route = self._routes.get(scope["path"]) or self._routes.get(normalize_path(scope["path"]))
        if route is None or scope["method"] != "POST":
            await self._framework(scope, receive, send, _shared(identifier))
            return
        handler, limit = route
        try:
            body = await read_body(receive, limit)
            if body is None:
                return
            answer = Answer.of_body(await handler(scope, body), scope, identifier)
        except Exception as error:  # the outermost layer
            answer = Answer.of_error(error, scope, identifier)
        await answer.send(send)

    async def _framework(self, scope: Any, receive: Receive, send: Send, shared: Headers) -> None:
        started, status, is_stream = time.perf_counter(), 0, False
        scope = with_whole_names(as_get(scope))

        async def send_with_shared(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                if scope["method"] == "OPTIONS" and scope.get("path_template") in self._methods:
                    # Litestar's own answer lists only the methods that were there when it made this address.
                    headers = [header for header in headers if header[0].lower() != b"allow"]
                    headers.append((b"allow", self._methods[scope["path_template"]]))
                given = {name.lower() for name, _ in headers}
                is_stream = any(
                    name.lower() == b"content-type" and value.startswith(_STREAM) for name, value in headers
                )
                further = (*shared, *headers_of_answer(scope))
                message["headers"] = [*headers, *(header for header in further if header[0] not in given)]
            await send(message)

        await self._app(scope, receive, send_with_shared)
        # The route as it is declared: a path holds names that strangers chose, and there is no end of them.
        if is_stream:
            return  # it lasts as long as somebody watches, which says nothing of how quick the API is
        labels = (_METHODS.get(scope["method"], "other"), scope.get("path_template") or "none", str(status))
        metrics.request_seconds.labels(*labels).observe(time.perf_counter() - started)
