"""Limits of HTTP connections: times, sizes, and the memory that all requests may hold together."""

import asyncio
import resource
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from services.api.http.serving.turns import Turns
from shared.infra.memory import give_back_free_memory

_MIB: Final = 1024 * 1024
# Not counted for each request, so that small ones are served even when the budget is used up.
FREE_BYTES: Final = 4096
# File descriptors that the process needs besides its connections.
_OTHER_FILES: Final = 128
# The entry of the ASGI scope that holds a request's ``HeldBody``.
HELD_BODY: Final = "relay_held_body"


class HttpLimits(NamedTuple):
    """The limits: times in seconds, sizes in bytes.

    ``headers_s``: from the first byte (of a new connection: from its opening) to the end of the headers. ``request_s``: to the
    end of the body. ``write_s``: for a client to read ``read_bytes`` of an answer. ``young_s``: at shutdown, a new connection
    gets this long to send its first request. ``request_bytes``: after the headers, for any route, chunk headers and trailers
    included. ``unread_bytes``: answers that all clients together have not read. ``sweep_s``: between two checks of the
    connections. ``keep_alive_s``: between two requests of a connection.
    """

    headers_s: float = 10.0
    request_s: float = 30.0
    write_s: float = 10.0
    young_s: float = 0.5
    sweep_s: float = 1.0
    keep_alive_s: int = 75
    headers_bytes: int = 64 * 1024
    request_bytes: int = 16 * _MIB
    read_bytes: int = 16 * 1024
    unread_bytes: int = 32 * _MIB
    connections: int = 4096
    # Requests that are being received or answered: of all clients, and of clients without a known key or signature.
    bodies_bytes: int = 64 * _MIB
    unknown_bodies_bytes: int = 16 * _MIB


class ClientLeft(BaseException):
    """The client disconnected in the middle of its request.

    Not an ``Exception``: like the cancellation of a task it is not an error, so the framework's handlers must not catch it.
    """


class BodyBudget:
    """Counts the bytes of all requests that are being received or answered."""

    def __init__(self, limit: int, unknown_limit: int) -> None:
        self._limit, self._unknown_limit = limit, unknown_limit
        self.used = self.unknown = 0
        # Bytes freed since the C library was last asked to return memory to the system.
        self.freed = 0

    def hold(self) -> "HeldBody":
        return HeldBody(self)

    def has_room(self, growth: int, *, admitted: bool) -> bool:
        if self.used + growth > self._limit:
            return False
        return admitted or self.unknown + growth <= self._unknown_limit


class HeldBody:
    """What the current request of a connection holds of the budget. ``admit``: it has shown a key or a signature.

    ``was_admitted``: some request of the connection has.
    """

    __slots__ = ("_budget", "bytes", "is_admitted", "was_admitted")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.is_admitted = self.was_admitted = False
        self.bytes = 0

    def grow_to(self, size: int) -> bool:
        """Take ``size`` bytes in all. Return False if the budget has no room for them.

        The first ``FREE_BYTES`` are not counted.
        """
        growth = size - FREE_BYTES - self.bytes
        if growth <= 0:
            return True
        budget = self._budget
        if not budget.has_room(growth, admitted=self.is_admitted):
            return False
        self.bytes += growth
        budget.used += growth
        if not self.is_admitted:
            budget.unknown += growth
        return True

    def admit(self) -> None:
        if not self.is_admitted:
            self.is_admitted = self.was_admitted = True
            self._budget.unknown -= self.bytes

    def release(self) -> None:
        """Return the bytes to the budget: the request is answered, or its connection is gone."""
        budget = self._budget
        budget.used -= self.bytes
        budget.freed += self.bytes
        if not self.is_admitted:
            budget.unknown -= self.bytes
        self.bytes, self.is_admitted = 0, False


def admit_body(scope: Any) -> None:
    """Stop counting a request as an unknown client's: its key or signature has been checked."""
    held = scope.get(HELD_BODY)
    if held is not None:
        held.admit()


class Watched(Protocol):
    """The methods of a connection that the guard uses. Times are in the event loop's time, in seconds."""

    @property
    def has_shown_key(self) -> bool:
        """Whether one of its requests has shown a key or a signature."""
        ...

    def look(self, now: float) -> int:
        """Enforce the time limits. Return how many bytes of answers the client has not read."""
        ...

    def waiting_since(self) -> float | None:
        """Return since when the connection waits for its client. None while a request is being answered."""
        ...

    def stuck_since(self) -> float:
        """Return when the client last read part of an unfinished answer. Infinity if it has read all."""
        ...

    def cut(self) -> None:
        """Reset the connection, which frees the kernel's buffers at once."""
        ...


class HttpGuard:
    """Checks the connections of one server once a second, which costs less than a timer for each of them."""

    def __init__(self, limits: HttpLimits | None = None, is_known: Callable[[Any], bool] = lambda _: False) -> None:
        self.limits = limits or HttpLimits()
        self.bodies = BodyBudget(self.limits.bodies_bytes, self.limits.unknown_bodies_bytes)
        self.turns = Turns()
        # Takes an ASGI scope. Returns whether the request shows the key or the signature of a known client.
        self.is_known = is_known
        self._connections: set[Watched] = set()
        self._sweeping = self._is_making_room = False
        self._most = 0
        self._gave_back = 0.0
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        allowed = self.limits.connections
        self._allowed = allowed if files == resource.RLIM_INFINITY else max(1, min(allowed, files - _OTHER_FILES))

    def joined(self, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Register a new connection. ``connections``: all connections of the server, this one included."""
        self._connections = connections
        if not self._is_making_room:
            self._limit_connections(loop)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self.limits.sweep_s, self._sweep, loop)

    def _limit_connections(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_making_room = len(self._connections) > self._allowed
        if self._is_making_room:
            loop.call_soon(self._make_room, loop)

    def _make_room(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that have waited longest for their clients, first those that never showed a key.

        Several at once and at most once in a turn of the loop, because choosing them looks at every connection.
        """
        waiting = [
            (each.has_shown_key, since, id(each), each)
            for each in self._connections
            if (since := each.waiting_since()) is not None
        ]
        waiting.sort()
        closed = waiting[: max(1, self._allowed // 20)]
        for *_, each in closed:
            each.cut()
        if closed:  # they leave the set at the end of this turn
            loop.call_soon(self._limit_connections, loop)
        else:  # all are being answered
            loop.call_later(_NEXT_TRY_S, self._limit_connections, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._most = max(self._most, len(self._connections))
        self._look_at(list(self._connections), 0, [], loop)

    def _look_at(
        self,
        connections: list[Watched],
        start: int,
        lagging: list[tuple[float, int, int, Watched]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Check connections from ``start`` on, some in each turn of the loop: all at once would delay every request."""
        now, end = loop.time(), start + _CHECKED_AT_ONCE
        for each in connections[start:end]:
            if each not in self._connections:  # it ended in an earlier turn
                continue
            behind = each.look(now)
            if behind:
                lagging.append((each.stuck_since(), id(each), behind, each))
        if end < len(connections):
            loop.call_soon(self._look_at, connections, end, lagging, loop)
            return
        self._limit_unread(lagging)
        self._give_memory_back(now)
        if self._connections or self.bodies.freed or self._most:
            loop.call_later(self.limits.sweep_s, self._sweep, loop)
        else:
            self._sweeping = False

    def _limit_unread(self, lagging: list[tuple[float, int, int, Watched]]) -> None:
        """Close the connections that have made no progress for longest, if all together have read too little."""
        unread = sum(behind for _, _, behind, _ in lagging)
        if unread <= self.limits.unread_bytes:
            return
        lagging.sort()
        for _, _, behind, each in lagging:
            each.cut()
            unread -= behind
            if unread <= self.limits.unread_bytes:
                return

    def _give_memory_back(self, now: float) -> None:
        """Return memory to the system after much was freed. The C library keeps it otherwise."""
        freed, connections = self.bodies.freed, len(self._connections)
        calm = self.bodies.used < _WORTH_GIVING_BACK // 2 and now - self._gave_back >= _GIVE_BACK_EVERY_S
        if calm and (freed >= _WORTH_GIVING_BACK or self._most - connections >= _MANY_CONNECTIONS):
            give_back_free_memory()
            self._gave_back = now
            self.bodies.freed = 0
            self._most = connections
        elif calm and not self._connections:
            self.bodies.freed = self._most = 0


# Between two attempts to close connections while none waits for its client.
_NEXT_TRY_S: Final = 0.05
# Connections that the sweep checks in one turn of the loop. A check asks the kernel, which takes about 0.05 ms.
_CHECKED_AT_ONCE: Final = 16
# Returning memory to the system takes some milliseconds.
_WORTH_GIVING_BACK: Final = 16 * _MIB
_GIVE_BACK_EVERY_S: Final = 5.0
_MANY_CONNECTIONS: Final = 100


def content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


def may_hold_bytes(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether the body may exceed ``FREE_BYTES``. A chunked body announces no length, so it may."""
    announced = content_length(headers)
    if announced is None:
        return any(name == b"transfer-encoding" for name, _ in headers)
    return announced > FREE_BYTES
