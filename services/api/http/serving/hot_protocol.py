"""Answer the hot routes in the connection itself, as soon as the last byte of the request has arrived.

Uvicorn creates a task, an event and messages for each request, and writes head and body of the answer separately. That costs
several times as much as minting a token. A request that can be answered from memory needs none of it. Unusual requests
(chunked, large, pipelined, HTTP/1.0, `Expect`, or with a key that this process does not know) go to uvicorn and the
application, which answer the same routes with the same functions.
"""

import asyncio
from functools import partial
from typing import Any, Final

from services.api.http.serving.early_answers import AnsweredHere
from services.api.http.serving.hot_routes import Answer, HotRoute, HotRoutes, Waiting, new_request_id
from services.api.http.serving.http_guard import GuardedProtocol
from services.api.http.serving.http_limits import content_length
from services.api.http.serving.uvicorn_internals import HIGH_WATER_LIMIT
from shared.errors import PayloadTooLarge
from shared.infra.logs import request_id

# Larger bodies need flow control. LiveKit's webhooks, with names and metadata of a usual length, have 2 kB.
BODY_LIMIT: Final = HIGH_WATER_LIMIT


class _InHand(AnsweredHere):
    """A request on a hot route that this protocol answers."""

    __slots__ = ("is_checked", "route")

    def __init__(self, route: HotRoute, keep_alive: bool) -> None:
        super().__init__(keep_alive)
        self.route, self.is_checked = route, False


class HotProtocol(GuardedProtocol):
    """A connection that answers the hot routes of ``HotRoutes``.

    If the application is wrapped, for example by tracing, the wrapper must see all requests, so no route is answered here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        self._routes = app.by_target if isinstance(app, HotRoutes) else {}

    def on_headers_complete(self) -> None:
        route = self._routes.get(self.url)
        if route is None or not self._is_plain(route):
            super().on_headers_complete()
            return
        self.headers_are_over()
        self.cycle = _InHand(route, self.parser.should_keep_alive())  # type: ignore[assignment]  # see AnsweredHere

    def _is_plain(self, route: HotRoute) -> bool:
        """Return whether the request is ordinary.

        It has a small body, or one to be refused, and no earlier request is unanswered.
        """
        parser, before = self.parser, self.cycle
        if (
            parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
            or self.expect_100_continue
            or self.flow.write_paused  # the client sends but does not read
            or not (before is None or before.response_complete)
        ):
            return False
        for name, value in self.headers:
            if name == b"content-length":
                size = int(value)
                return size <= BODY_LIMIT or size > route.body_limit
        return False

    def on_body(self, body: bytes) -> None:
        request: Any = self.cycle
        if type(request) is not _InHand:
            super().on_body(body)
        elif not request.response_complete:
            request.body += body
            self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        request: Any = self.cycle
        if type(request) is _InHand and not request.response_started:
            self._answer(request)

    def _unfinished(self) -> None:
        """Admit or refuse a request by its headers while its body is incomplete."""
        request: Any = self.cycle
        is_open = self._since is not None and self._refused is None and not self._in_headers
        if type(request) is _InHand and is_open and not (request.is_checked or request.response_complete):
            request.is_checked = True
            try:
                is_admitted = request.route.at_headers(self.scope)
            except Exception as error:  # the outermost layer, as in HotRoutes
                self.answer_early(error)
                return
            if not is_admitted:
                self._hand_over(request.body)
            elif (content_length(self.headers) or 0) > request.route.body_limit:
                self.answer_early(PayloadTooLarge(request.route.body_limit))
                return
            else:
                self._held.admit()
        super()._unfinished()

    def _answer(self, request: _InHand) -> None:
        scope: Any = self.scope
        identifier = new_request_id()
        before = request_id.set(identifier)
        try:
            found = request.route.at_once(scope, request.body)
        except Exception as error:  # the outermost layer, as in HotRoutes
            self.write_answer(request, Answer.of_error(error, scope, identifier))
        else:
            if found is None:
                self._hand_over(request.body)
                super().on_message_complete()
                return
            self._held.was_admitted = True
            if isinstance(found, Waiting):
                found.until.add_done_callback(partial(self._waited, request, scope, identifier, found.body))
            else:
                self.write_answer(request, Answer.of_body(found, scope, identifier))
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
        self.write_answer(request, answer)

    def _hand_over(self, body: bytes) -> None:
        """Hand the request to the application, with the part of its body that has arrived."""
        self.cycle = None  # type: ignore[assignment]  # the state before a first request
        super().on_headers_complete()
        self._body_bytes = 0
        if body:
            super().on_body(body)
