"""Limits of HTTP connections: times, sizes, and the memory of the process that requests may hold together."""

import asyncio
import resource
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from services.api.http.serving.turns import Turns
from shared.infra.memory import give_back_free_memory

_MIB: Final = 1024 * 1024
# Free of charge for each request, so that small ones go on when the budget is used up.
FREE_BYTES: Final = 4096
# Files that the process needs beside its connections.
_OTHER_FILES: Final = 128
# The key of a request's ``HeldBody`` in its ASGI scope.
HELD_BODY: Final = "relay_held_body"


class HttpLimits(NamedTuple):
    """Times in seconds, sizes in bytes.

    ``headers_s``: from the first byte (of a new connection: from its opening) to the end of the headers. ``request_s``: to the
    end of the body. ``write_s``: for a client to read ``read_bytes`` of an answer. ``young_s``: a connection younger than this
    is waited for when the process ends. ``request_bytes``: after the headers, for any route, chunk headers and trailers
    included. ``unread_bytes``: answers that all clients together have not read. ``sweep_s``: between two looks at the
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
    # Requests that are being received or answered: of all clients, and of those that have not shown a key or a signature.
    bodies_bytes: int = 64 * _MIB
    unknown_bodies_bytes: int = 16 * _MIB


class ClientLeft(BaseException):
    """The client hung up in the middle of its request.

    It is no ``Exception``, so it passes through the framework's handlers: like a cancelled task, it is no error.
    """


class BodyBudget:
    """Counts the bytes of all requests that are being received or answered."""

    def __init__(self, limit: int, unknown_limit: int) -> None:
        self._limit, self._unknown_limit = limit, unknown_limit
        self.used = self.unknown = 0
        # Freed since the C library was last asked to give memory back.
        self.freed = 0

    def hold(self) -> "HeldBody":
        return HeldBody(self)

    def has_room(self, growth: int, *, admitted: bool) -> bool:
        if self.used + growth > self._limit:
            return False
        return admitted or self.unknown + growth <= self._unknown_limit


class HeldBody:
    """What one request holds of the budget. ``admit`` says that it has shown a key or a signature."""

    __slots__ = ("_budget", "bytes", "is_admitted")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.is_admitted = False
        self.bytes = 0

    def grow_to(self, size: int) -> bool:
        """Whether the budget has room for ``size`` bytes in all. The first ``FREE_BYTES`` are free."""
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
            self.is_admitted = True
            self._budget.unknown -= self.bytes

    def release(self) -> None:
        """The request is answered, or its connection is gone."""
        budget = self._budget
        budget.used -= self.bytes
        budget.freed += self.bytes
        if not self.is_admitted:
            budget.unknown -= self.bytes
        self.bytes, self.is_admitted = 0, False


def admit_body(scope: Any) -> None:
    """Moves a request from the budget of unknown clients to that of all: its key or signature has been checked."""
    held = scope.get(HELD_BODY)
    if held is not None:
        held.admit()


class Watched(Protocol):
    """A connection, as the guard sees it."""

    def look(self, now: float) -> int:
        """Enforces the time limits. Returns how many bytes of answers the client has not read."""
        ...

    def waiting_since(self) -> float | None:
        """When it began to wait for its client; None while a request is being answered."""
        ...

    def stuck_since(self) -> float:
        """When the client last read something of an answer that it has not read to the end."""
        ...

    def cut(self) -> None:
        """Ends the connection at once and frees the kernel's buffers too."""
        ...


class HttpGuard:
    """Watches the connections of one server. A sweep once a second costs less than a timer for each of them."""

    def __init__(self, limits: HttpLimits | None = None, is_known: Callable[[Any], bool] = lambda _: False) -> None:
        self.limits = limits or HttpLimits()
        self.bodies = BodyBudget(self.limits.bodies_bytes, self.limits.unknown_bodies_bytes)
        self.turns = Turns()
        # Whether a request has shown the key or the signature of a known client, from its ASGI scope.
        self.is_known = is_known
        self._connections: set[Watched] = set()
        self._sweeping = False
        self._most = 0
        self._gave_back = 0.0
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        allowed = self.limits.connections
        self._allowed = allowed if files == resource.RLIM_INFINITY else max(1, min(allowed, files - _OTHER_FILES))

    def joined(self, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        """A connection was opened. ``connections``: all of the server, this one included."""
        self._connections = connections
        if len(connections) > self._allowed:
            self._make_room(loop.time())
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self.limits.sweep_s, self._sweep, loop)

    def _make_room(self, now: float) -> None:
        """Closes those that have waited longest for their clients, several at once: choosing looks at all of them."""
        waiting = [(since, id(each), each) for each in self._connections if (since := each.waiting_since()) is not None]
        waiting.sort()
        for _, _, each in waiting[: max(1, self._allowed // 20)]:
            each.cut()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now, unread, lagging = loop.time(), 0, []
        self._most = max(self._most, len(self._connections))
        for each in list(self._connections):
            behind = each.look(now)
            if behind:
                unread += behind
                lagging.append((each.stuck_since(), id(each), behind, each))
        if unread > self.limits.unread_bytes:
            lagging.sort()
            for _, _, behind, each in lagging:
                each.cut()
                unread -= behind
                if unread <= self.limits.unread_bytes:
                    break
        self._give_memory_back(now)
        if self._connections or self.bodies.freed or self._most:
            loop.call_later(self.limits.sweep_s, self._sweep, loop)
        else:
            self._sweeping = False

    def _give_memory_back(self, now: float) -> None:
        """After much was freed. The C library keeps it otherwise: bodies lie between other things in its heap."""
        freed, connections = self.bodies.freed, len(self._connections)
        calm = self.bodies.used < _WORTH_GIVING_BACK // 2 and now - self._gave_back >= _GIVE_BACK_EVERY_S
        if calm and (freed >= _WORTH_GIVING_BACK or self._most - connections >= _MANY_CONNECTIONS):
            give_back_free_memory()
            self._gave_back = now
            self.bodies.freed = 0
            self._most = connections
        elif calm and not self._connections:
            self.bodies.freed = self._most = 0


# Giving memory back takes some milliseconds.
_WORTH_GIVING_BACK: Final = 16 * _MIB
_GIVE_BACK_EVERY_S: Final = 5.0
_MANY_CONNECTIONS: Final = 100
