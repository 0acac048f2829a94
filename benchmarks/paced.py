"""Send prepared requests at a steady rate over open connections.

wrk cannot keep a rate, and httpx is too slow.
"""

import asyncio
import time
from urllib.parse import urlsplit

_TICK_S = 0.005


def request(path: str, body: bytes, authorization: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/webhook+json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Paced:
    """A sender at a steady rate. ``refused`` counts responses other than 200 and broken connections."""

    def __init__(self, url: str, requests: list[bytes], connections: int = 32) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._requests, self._connections = requests, connections
        self._due: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.refused = 0

    async def run(self, rate: int) -> None:
        """Send all requests, and return when each has its response."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._connections):
                tasks.create_task(self._connection())
            started, sent = time.monotonic(), 0
            while sent < len(self._requests):
                due = min(len(self._requests), int((time.monotonic() - started) * rate))
                for one in self._requests[sent:due]:
                    self._due.put_nowait(one)
                sent = max(sent, due)
                await asyncio.sleep(_TICK_S)
            for _ in range(self._connections):
                self._due.put_nowait(None)

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            while (one := await self._due.get()) is not None:
                writer.write(one)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(length)
                self.refused += not head.startswith(b"HTTP/1.1 200")
        except (asyncio.IncompleteReadError, OSError):
            self.refused += 1
        finally:
            writer.close()
