"""Serve the two hot paths as plain ASGI in front of the framework, and give every request its id.

A handler gets the scope and the body and returns the body of a 200. It raises errors, which become problems in one place.
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

from services.api.http.access.authentication import ANSWER_HEADERS, headers_of_answer
from services.api.http.problems import MEDIA_TYPE, problem_of
from services.api.http.serving.head_requests import as_get
from services.api.http.serving.http_limits import HELD_BODY, BodyBudget, ClientLeft, HttpLimits, admit_body
from services.api.rooms.paths import with_whole_names
from shared.errors import PayloadTooLarge, TooManyBodies
from shared.infra import metrics
from shared.infra.logs import request_id

log = logging.getLogger("relay.api")

Headers = tuple[tuple[bytes, bytes], ...]


class Waiting(NamedTuple):
    """The body of a 200, to be sent when ``until`` is done. If ``until`` fails, its error is the answer."""

    until: "asyncio.Future[None]"
    body: bytes


class HotRoute(NamedTuple):
    """A route that is answered without the framework. Exceptions of its functions become the answer.

    ``admit`` gets the scope and raises if the body need not be read. ``handle`` then gets scope and body and returns the body
    of a 200. ``at_headers`` and ``at_once`` do the same without a coroutine, for the usual case. They return False and None if
    the answer needs I/O; nothing has been counted or changed then.
    """

    admit: "Callable[[Any], Awaitable[None]]"
    handle: "Callable[[Any, bytes], Awaitable[bytes]]"
    at_headers: "Callable[[Any], bool]"
    at_once: "Callable[[Any, bytes], bytes | Waiting | None]"
    body_limit: int


_JSON = (b"content-type", b"application/json")
_STREAM = b"text/event-stream"
_PROBLEM = (b"content-type", MEDIA_TYPE.encode())
# Browsers must not guess another content type, and caches must not store answers: some hold tokens.
_EVERYWHERE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))

_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

# Fast, seeded by the system. Request ids must be unique but need not be secret.
_random_bits = random.Random().getrandbits  # noqa: S311  # see above


def new_request_id() -> str:
    """Return a new request id.

    An id from the client is never used: it may repeat and could inject text into the log.
    """
    return f"req_{_random_bits(72):018x}"


def header(scope: Any, name: bytes) -> str | None:
    """Return a request header. ``name`` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(scope: Any, receive: Receive, limit: int) -> bytes:
    """Read the whole body. Raises ``ClientLeft``, and ``PayloadTooLarge`` as soon as ``limit`` is passed."""
    announced = header(scope, b"content-length")
    if announced is not None and int(announced) > limit:
        raise PayloadTooLarge(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunk if len(chunks) == 1 else b"".join(chunks)


class _Request:
    """A request: counts its body against the budget and detects a client that leaves in the middle of it."""

    def __init__(self, scope: Any, receive: Receive, bodies: BodyBudget) -> None:
        self._receive = receive
        # ``GuardedProtocol`` counts what it receives; uvicorn's own protocol does not.
        self._own = bodies.hold() if HELD_BODY not in scope else None
        if self._own is not None:
            scope[HELD_BODY] = self._own
        self._is_complete = not _has_body(scope)
        self._size = 0
        self.is_answered = False

    async def receive(self) -> Any:
        """Receive an ASGI message. Raises ``TooManyBodies``, and ``ClientLeft`` in the middle of the body."""
        message: Any = await self._receive()
        if message["type"] == "http.disconnect":
            if not self._is_complete and not self.is_answered:
                raise ClientLeft
            return message
        self._is_complete = not message.get("more_body")
        if self._own is not None:
            self._size += len(message.get("body", b""))
            if not self._own.grow_to(self._size):
                raise TooManyBodies
        return message

    def release(self) -> None:
        if self._own is not None:
            self._own.release()


def _has_body(scope: Any) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


class Answer(NamedTuple):
    """A whole answer of a hot path. ``headers`` include the content length."""

    status: int
    body: bytes
    headers: Headers

    @classmethod
    def of_body(cls, body: bytes, scope: Any, identifier: str) -> "Answer":
        further = scope.get(ANSWER_HEADERS, ())
        return cls(200, body, (_JSON, *_shared(identifier), *further, (b"content-length", b"%d" % len(body))))

    @classmethod
    def of_error(cls, error: Exception, scope: Any, identifier: str) -> "Answer":
        """Return the problem for any exception. An unexpected one is logged with its traceback."""
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
    """Return the headers that every answer has."""
    return ((b"x-request-id", identifier.encode()), *_EVERYWHERE)


async def _answer(route: HotRoute, scope: Any, request: _Request, identifier: str) -> Answer:
    try:
        await route.admit(scope)
        admit_body(scope)
        body = await read_body(scope, request.receive, route.body_limit)
        return Answer.of_body(await route.handle(scope, body), scope, identifier)
    except Exception as error:  # the outermost layer
        return Answer.of_error(error, scope, identifier)


class HotRoutes:
    """Answers the hot paths and passes everything else to the framework.

    Every answer carries ``X-Request-Id``. The framework has the same paths as ordinary routes, which describe them in the
    OpenAPI document and refuse other methods.
    """

    def __init__(self, app: Litestar, is_known: Callable[[Any], bool] = lambda _: False) -> None:
        self._app = app
        # Takes an ASGI scope. Returns whether the request shows a known key or signature.
        self.is_known = is_known
        self._methods = {
            route.path_format: ", ".join(sorted(route.methods)).encode()
            for route in app.routes
            if isinstance(route, HTTPRoute)
        }
        self._routes: dict[str, HotRoute] = {}
        # By request target, for ``HotProtocol``.
        self.by_target: dict[bytes, HotRoute] = {}
        limits = HttpLimits()
        self._bodies = BodyBudget(limits.bodies_bytes, limits.unknown_bodies_bytes)

    def post(self, path: str, route: HotRoute) -> None:
        self._routes[path] = self.by_target[path.encode()] = route

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = new_request_id()
        request_id.set(identifier)
        request = _Request(scope, receive, self._bodies)
        try:
            # The framework treats `/v1/tokens/` and `//v1/tokens` as `/v1/tokens`, but with the rate limits of other requests.
            route = self._routes.get(scope["path"]) or self._routes.get(normalize_path(scope["path"]))
            if route is None or scope["method"] != "POST":
                await self._framework(scope, request, send, _shared(identifier))
            else:
                await (await _answer(route, scope, request, identifier)).send(send)
        except ClientLeft:
            pass  # the client is gone, so there is no answer to send
        finally:
            request.release()

    async def _framework(self, scope: Any, request: _Request, send: Send, shared: Headers) -> None:
        started, status, is_stream = time.perf_counter(), 0, False
        scope = with_whole_names(as_get(scope))

        async def send_with_shared(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                request.is_answered = True
                status = message["status"]
                headers = list(message["headers"])
                if scope["method"] == "OPTIONS" and scope.get("path_template") in self._methods:
                    # Litestar lists only the methods that were registered when it created this route.
                    headers = [header for header in headers if header[0].lower() != b"allow"]
                    headers.append((b"allow", self._methods[scope["path_template"]]))
                given = {name.lower() for name, _ in headers}
                is_stream = any(
                    name.lower() == b"content-type" and value.startswith(_STREAM) for name, value in headers
                )
                further = (*shared, *headers_of_answer(scope))
                message["headers"] = [*headers, *(header for header in further if header[0] not in given)]
            await send(message)

        await self._app(scope, request.receive, send_with_shared)
        if is_stream:
            return  # a stream lasts as long as its reader stays, which is not a response time
        # The label is the declared route, not the path: paths hold names that clients choose, without a bound.
        labels = (_METHODS.get(scope["method"], "other"), scope.get("path_template") or "none", str(status))
        metrics.request_seconds.labels(*labels).observe(time.perf_counter() - started)
