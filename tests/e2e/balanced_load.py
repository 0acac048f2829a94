"""Clients behind a load balancer, in one: requests at a set rate over keep-alive connections to whichever process says on
`/readyz` that it is ready, as a balancer with health checks would spread them.

A request that found no connection is sent to another process, as every balancer does; one that was sent and not answered is a
failure, because only the client can know whether it may be repeated.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import msgspec

READY_POLL_S = 0.1
ANSWER_WITHIN_S = 10.0


class Wanted(NamedTuple):
    """A request as bytes, and what its client does when it is not answered with 200."""

    kind: str
    data: bytes
    repeated: bool


class Outcome(msgspec.Struct):
    """Of one kind of request. ``gap_s``: the longest time between two answers of 200."""

    answered: int = 0
    repeated: int = 0
    failed: Counter[str] = msgspec.field(default_factory=Counter)
    gap_s: float = 0.0
    slowest_s: float = 0.0
    last: float = 0.0

    def count(self, started: float) -> None:
        now = time.monotonic()
        self.gap_s = max(self.gap_s, now - self.last) if self.last else 0.0
        self.slowest_s, self.last = max(self.slowest_s, now - started), now
        self.answered += 1


class Balancer:
    """Knows which ports are ready. ``run`` must be running."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self.ready: list[int] = []
        self._turn = 0

    async def run(self) -> None:
        while True:
            answers = await asyncio.gather(*(self._is_ready(port) for port in self._ports))
            self.ready = [port for port, ready in zip(self._ports, answers, strict=True) if ready]
            await asyncio.sleep(READY_POLL_S)

    async def wait(self, count: int, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while len(self.ready) < count:
            assert time.monotonic() < deadline, f"ready: {self.ready} of {self._ports}"
            await asyncio.sleep(0.02)

    def next(self) -> int:
        """Any of the ready ones in turn; with none, any at all."""
        self._turn += 1
        ports = self.ready or self._ports
        return ports[self._turn % len(ports)]

    @staticmethod
    async def _is_ready(port: int) -> bool:
        try:
            async with asyncio.timeout(2):
                connection = await Connection.opened(port)
                try:
                    return (await connection.ask(b"GET /readyz HTTP/1.1\r\nhost: relay\r\n\r\n"))[0] == 200
                finally:
                    connection.close()
        except (OSError, EOFError, TimeoutError):
            return False


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port, self._reader, self._writer = port, reader, writer

    @classmethod
    async def opened(cls, port: int) -> "Connection":
        return cls(port, *await asyncio.open_connection("127.0.0.1", port))

    @property
    def is_closed(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing()

    async def ask(self, data: bytes) -> tuple[int, bool]:
        """(status, whether the server goes on with this connection). Raises ``OSError`` or ``EOFError``."""
        self._writer.write(data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length: ")
        await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        return int(head[9:12]), b"connection: close" not in head

    def close(self) -> None:
        with suppress(RuntimeError):
            self._writer.close()


async def drive(
    balancer: Balancer, requests: Iterator[Wanted], rate: float, connections: int, stop: Callable[[], bool]
) -> dict[str, Outcome]:
    """Sends ``rate`` requests a second over ``connections`` until ``stop`` or the last one; what became of them, by kind."""
    outcomes: dict[str, Outcome] = {}
    begin, started = time.monotonic(), 0

    async def client() -> None:
        nonlocal started
        connection: Connection | None = None
        for wanted in requests:
            if stop():
                break
            started += 1
            delay_s = begin + started / rate - time.monotonic()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            outcome = outcomes.setdefault(wanted.kind, Outcome())
            connection = await _deliver(balancer, connection, wanted, outcome)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return outcomes


async def _deliver(
    balancer: Balancer, connection: Connection | None, wanted: Wanted, outcome: Outcome
) -> Connection | None:
    """Sends one request, again where its client would; the connection, if it can be used again."""
    started = time.monotonic()
    while True:
        if connection is None or connection.is_closed or connection.port not in balancer.ready:
            if connection is not None:
                connection.close()
            try:
                connection = await Connection.opened(balancer.next())
            except OSError:
                connection = None
                if time.monotonic() - started > ANSWER_WITHIN_S:
                    outcome.failed["nobody there"] += 1
                    return None
                await asyncio.sleep(0.02)
                continue
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, goes_on = await connection.ask(wanted.data)
            if not goes_on:
                connection.close()
            if status == 200:
                outcome.count(started)
                return connection if goes_on else None
            problem = str(status)
        except (OSError, EOFError, TimeoutError) as error:
            connection.close()
            problem = type(error).__name__
        connection = connection if not connection.is_closed else None
        if not wanted.repeated or problem.startswith("4") or time.monotonic() - started > ANSWER_WITHIN_S:
            outcome.failed[problem] += 1
            return connection
        outcome.repeated += 1
        await asyncio.sleep(0.1)
