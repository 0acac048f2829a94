"""Send signed events at a steady rate, and repeat each until it is acknowledged.

LiveKit gives up after about 15 s. This sender never does, so after every fault all events must be stored and the sums must be
those of the plan. It records the acknowledged events, because none of them may be lost.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from shared.livekit.webhook import WebhookSigner

_PATH = "/api/webhooks/livekit"
_TICK_S = 0.005
_AGAIN_S = 0.25
_ANSWER_WITHIN_S = 15.0


class FaultCounts(NamedTuple):
    """Outcome of one run.

    Times are in seconds, until all events were sent and until all were acknowledged. ``refused`` counts responses other than
    200. ``broken`` counts connections that ended or timed out before a response.
    """

    acknowledged: int
    refused: int
    broken: int
    offered_s: float
    acknowledged_s: float


class FaultSender:
    """Sends ``bodies`` once, in order as far as parallel ``connections`` allow."""

    def __init__(self, url: str, signer: WebhookSigner, bodies: Sequence[bytes], connections: int = 64) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._signer, self._bodies, self._connections = signer, bodies, connections
        self._due: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._refused = self._broken = 0
        self.acknowledged: list[bytes] = []

    @property
    def left(self) -> int:
        return len(self._bodies) - len(self.acknowledged)

    async def run(self, rate: int) -> FaultCounts:
        """Send all events, and return when every one is acknowledged."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._connections):
                tasks.create_task(self._connection())
            sent = 0
            while sent < len(self._bodies):
                due = min(len(self._bodies), int((time.monotonic() - started) * rate))
                for body in self._bodies[sent:due]:
                    self._due.put_nowait(body)
                sent = max(sent, due)
                await asyncio.sleep(_TICK_S)
            offered_s = time.monotonic() - started
            for _ in range(self._connections):
                self._due.put_nowait(None)
        return FaultCounts(len(self.acknowledged), self._refused, self._broken, offered_s, time.monotonic() - started)

    async def _connection(self) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (body := await self._due.get()) is not None:
            while True:
                try:
                    if streams is None:
                        streams = await asyncio.open_connection(self._host, self._port)
                    async with asyncio.timeout(_ANSWER_WITHIN_S):
                        status, close = await self._send(*streams, body)
                except (OSError, asyncio.IncompleteReadError, TimeoutError):
                    self._broken += 1
                    status, close = 0, True
                if close and streams is not None:
                    streams[1].close()
                    streams = None
                if status == 200:
                    self.acknowledged.append(body)
                    break
                self._refused += status != 0
                await asyncio.sleep(_AGAIN_S)
        if streams is not None:
            streams[1].close()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bool]:
        # Signed when it is sent, because an event can wait here for longer than a signature is valid.
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/webhook+json\r\n"
            f"Authorization: {self._signer.sign(body, now_s=int(time.time()))}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next((int(line[15:]) for line in answer if line.startswith(b"content-length:")), 0)
        await reader.readexactly(length)
        return int(answer[0].split()[1]), b"connection: close" in answer
