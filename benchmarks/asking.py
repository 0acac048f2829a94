"""An HTTP client that sends one request after the other over one connection, at little cost."""

import socket
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec


class Asker:
    """One connection to an API, with a key. Raises if a response is not a 200."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n"

    def close(self) -> None:
        self._socket.close()

    def ask(self, path: str, **params: Any) -> dict[str, Any]:
        """Return the JSON of the response."""
        return dict(msgspec.json.decode(self._answer(self.request(path, **params))))

    def request(self, path: str, **params: Any) -> bytes:
        query = f"?{urlencode(params)}" if params else ""
        return f"GET /v1/{path}{query} HTTP/1.1\r\n{self._head}".encode()

    def time_ms(self, request: bytes) -> float:
        """Measure one request, from its first byte sent to the last byte received."""
        started = time.perf_counter()
        self._answer(request)
        return 1000 * (time.perf_counter() - started)

    def paced_ms(self, request: bytes, rate: float, seconds: float) -> list[float]:
        """Measure requests at a steady rate, each from the time when it was due.

        A request that waits for the response before it counts that wait, as its client would.
        """
        started, found = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = started + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            self._answer(request)
            found.append(1000 * (time.perf_counter() - due))
        return found

    def _answer(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._more()
        head, body = got[:end], [got[end + 4 :]]
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{request.split(b' HTTP')[0].decode()}: {got[:500]!r}; nothing is reported")
        fields = (line.lower() for line in head.split(b"\r\n"))
        length = next(int(field[15:]) for field in fields if field.startswith(b"content-length:"))
        missing = length - len(body[0])
        while missing > 0:
            body.append(self._more())
            missing -= len(body[-1])
        return b"".join(body)

    def _more(self) -> bytes:
        piece = self._socket.recv(1 << 18)
        if not piece:
            raise RuntimeError("the API closed the connection; nothing is reported")
        return piece
