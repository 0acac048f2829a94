"""Simulates clients behind a load balancer: requests at a set rate over keep-alive connections.

Each request goes to a process whose `/readyz` reports ready, as with a balancer that checks health. If the connection fails
before the request is sent, another process gets it, as with every balancer. A request that was sent and not answered is a
failure, because only the client can know whether it may be repeated.

At thousands of requests a second, most of two cores must be left to the servers. So a request costs one write and one
callback, and no task.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, cast

import msgspec

READY_POLL_S = 0.1
ANSWER_WITHIN_S = 10.0
_SHORTEST_TICK_S, _LONGEST_TICK_S = 0.002, 0.02
_REPEATED_AFTER_S = 0.1
_RECONNECT_WAIT_S = 0.02


class Wanted(NamedTuple):
    """A request as bytes, and what its client does when it is not answered with 200."""

    kind: str
    data: bytes
    repeated: bool


class LoadOutcome(msgspec.Struct):
    """The result for one kind of request.

    ``gap_s`` is the longest time between two responses of 200. ``rate`` is responses of 200 a second. ``latest_s`` is the
    longest delay of the load behind its own rate.
    """

    answered: int = 0
    repeated: int = 0
    failed: Counter[str] = msgspec.field(default_factory=Counter)
    gap_s: float = 0.0
    slowest_s: float = 0.0
    last: float = 0.0
    rate: float = 0.0
    latest_s: float = 0.0

    def count(self, started: float) -> None:
        now = time.monotonic()
        self.gap_s = max(self.gap_s, now - self.last) if self.last else 0.0
        self.slowest_s, self.last = max(self.slowest_s, now - started), now
        self.answered += 1


class Balancer:
    """Records which ports are ready. ``run`` must be running."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self.ready: list[int] = []
        self._turn = 0

    async def run(self) -> None:
        while True:
            answers = await asyncio.gather(*(_is_ready(port) for port in self._ports))
            # A process that answers slowly keeps its state, as with a balancer that needs several failures. On a busy
            # machine all of them may be slow, and only those that answered "not ready" may be left out.
            self.ready = [
                port
                for port, ready in zip(self._ports, answers, strict=True)
                if ready or (ready is None and port in self.ready)
            ]
            await asyncio.sleep(READY_POLL_S)

    async def wait(self, count: int, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while len(self.ready) < count:
            assert time.monotonic() < deadline, f"ready: {self.ready} of {self._ports}"
            await asyncio.sleep(0.02)

    def next(self) -> int:
        """Return the ready ports in turn, or all ports in turn if none is ready."""
        self._turn += 1
        ports = self.ready or self._ports
        return ports[self._turn % len(ports)]


class OnePort(Balancer):
    """A balancer with one port: that of a proxy, which does the balancing."""

    def __init__(self, port: int) -> None:
        super().__init__([port])
        self.ready = [port]


async def _is_ready(port: int) -> bool | None:
    """Ask `/readyz`. None if it does not answer in time."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nhost: relay\r\n\r\n")
                return (await reader.readuntil(b"\r\n")).split()[1] == b"200"
            finally:
                writer.close()
    except TimeoutError:
        return None
    except (OSError, EOFError):
        return False


class _Client(asyncio.Protocol):
    """A client that sends one request at a time and keeps its connection while it works."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._port = 0
        self._buffer = b""
        self._wanted: Wanted | None = None
        self._begun = 0.0  # when the client started the request, before any repetition
        self._sent = 0.0  # when the request was sent; 0 if none is pending
        self._opening: asyncio.Task[None] | None = None

    def take(self, wanted: Wanted) -> None:
        self._wanted, self._begun = wanted, time.monotonic()
        self._send()

    def _send(self) -> None:
        if self._transport is None or self._transport.is_closing() or self._port not in self._load.balancer.ready:
            self._drop()
            self._opening = asyncio.create_task(self._open())
            return
        assert self._wanted is not None
        self._sent = time.monotonic()
        self._transport.write(self._wanted.data)

    async def _open(self) -> None:
        while True:
            self._port = self._load.balancer.next()
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
            except OSError:
                if time.monotonic() - self._begun > ANSWER_WITHIN_S:
                    self._failed("nobody there")
                    return
                await asyncio.sleep(_RECONNECT_WAIT_S)
            else:
                assert self._wanted is not None
                assert self._transport is not None
                self._sent = time.monotonic()
                self._transport.write(self._wanted.data)
                return

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer = cast("asyncio.Transport", transport), b""

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            return
        head = buffer[:end].lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(buffer) < end + 4 + length:
            self._buffer = buffer
            return
        self._buffer, self._sent = b"", 0.0
        if b"connection: close" in head:
            self._drop()
        if head[9:12] == b"200":
            assert self._wanted is not None
            self._load.outcome.count(self._begun)
            self._rest()
        else:
            self._problem(head[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent:
            self._sent = 0.0
            self._transport = None
            self._problem(type(exc).__name__ if exc is not None else "closed without an answer")

    def give_up_after(self, limit_s: float) -> None:
        if self._sent and time.monotonic() - self._sent > limit_s:
            self._sent = 0.0
            self._drop()
            self._problem("no answer in time")

    def _problem(self, what: str) -> None:
        assert self._wanted is not None
        if not self._wanted.repeated or what.startswith("4") or time.monotonic() - self._begun > ANSWER_WITHIN_S:
            self._failed(what)
            return
        self._load.outcome.repeated += 1
        asyncio.get_running_loop().call_later(_REPEATED_AFTER_S, self._send)

    def _failed(self, what: str) -> None:
        self._load.outcome.failed[what] += 1
        self._rest()

    def _rest(self) -> None:
        self._wanted = None
        self._load.idle.append(self)

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def close(self) -> None:
        self._sent = 0.0
        if self._opening is not None:
            self._opening.cancel()
            with suppress(asyncio.CancelledError):
                await self._opening
        self._drop()


class _Load:
    """The state that the clients of one kind share."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.outcome = LoadOutcome()
        self.idle: list[_Client] = []


async def drive(
    balancer: Balancer, requests: Iterator[Wanted], rate: float, connections: int, stop: Callable[[], bool]
) -> LoadOutcome:
    """Send ``rate`` requests a second of one kind, until ``stop`` or the last one. Return the outcome.

    At most ``connections`` are open. Waits for all responses.
    """
    # At a low rate most ticks would find nothing to send.
    tick_s = min(max(_SHORTEST_TICK_S, 0.5 / rate), _LONGEST_TICK_S)
    load = _Load(balancer)
    clients = [_Client(load) for _ in range(connections)]
    load.idle += clients
    outcome, started, begin, last = load.outcome, 0, time.monotonic(), False
    try:
        while not (last or stop()):
            due = int((time.monotonic() - begin) * rate)
            while started < due and load.idle and not last:
                wanted = next(requests, None)
                if wanted is None:
                    last = True
                else:
                    started += 1
                    load.idle.pop().take(wanted)
            outcome.latest_s = max(outcome.latest_s, (due - started) / rate)
            for client in clients:
                client.give_up_after(ANSWER_WITHIN_S)
            await asyncio.sleep(tick_s)
        outcome.rate = outcome.answered / (time.monotonic() - begin)
        deadline = time.monotonic() + 3 * ANSWER_WITHIN_S
        while len(load.idle) < connections:
            assert time.monotonic() < deadline, "requests are neither answered nor given up"
            for client in clients:
                client.give_up_after(ANSWER_WITHIN_S)
            await asyncio.sleep(tick_s)
    finally:
        for client in clients:
            await client.close()
    return outcome
