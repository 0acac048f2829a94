"""Measure how many bytes of its answers a client has not read, and since when.

On Linux the kernel is asked as well, because it buffers data that the client has not confirmed.
"""

import asyncio
import fcntl
import math
import socket
import struct
import sys
import termios
from typing import Any, Final

# Offset of ``tcpi_bytes_acked`` (bytes that the client has confirmed) in Linux's ``struct tcp_info``.
_BYTES_ACKED_AT: Final = 120
_RESET: Final = struct.pack("ii", 1, 0)


class UnreadAnswers:
    """The unread answers of one client."""

    __slots__ = ("_read", "_since", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # Loop time at which the client last read enough, and the bytes it had read by then.
        self._since: float | None = None
        self._read = 0

    @property
    def is_stuck(self) -> bool:
        """Whether some bytes were unread at the last check."""
        return self._since is not None

    def since(self) -> float:
        """Return the loop time at which the client last made progress. Infinity if nothing is unread."""
        return math.inf if self._since is None else self._since

    def look(self, now: float, read_bytes: int) -> int:
        """Return the number of unread bytes. Each ``read_bytes`` that the client reads count as progress."""
        unread = self._transport.get_write_buffer_size() + _unsent(self._transport)
        if not unread:
            self._since = None
            return 0
        read = _confirmed(self._transport, unread)
        if self._since is None or read >= self._read + read_bytes:
            self._since, self._read = now, read
        return unread


def reset_connection(transport: asyncio.Transport) -> None:
    """Reset the connection, which frees the kernel's buffers at once.

    After an orderly close the kernel would keep the buffers and try to send for minutes.
    """
    descriptor: Any = transport.get_extra_info("socket")
    if descriptor is not None and descriptor.fileno() >= 0:
        descriptor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _unsent(transport: asyncio.Transport) -> int:
    """Return the number of bytes in the kernel that the client has not confirmed."""
    descriptor: Any = transport.get_extra_info("socket")
    if sys.platform != "linux" or descriptor is None or descriptor.fileno() < 0:
        return 0
    answer = bytearray(4)
    try:
        fcntl.ioctl(descriptor.fileno(), termios.TIOCOUTQ, answer)
    except OSError:  # it is being closed
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _confirmed(transport: asyncio.Transport, unread: int) -> int:
    """Return the number of bytes that the client has confirmed since it connected."""
    descriptor: Any = transport.get_extra_info("socket")
    if sys.platform != "linux":
        return -unread  # grows as the unread bytes become fewer
    try:
        info = descriptor.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
    except OSError:  # it is being closed
        return 0
    return int.from_bytes(info[_BYTES_ACKED_AT:], sys.byteorder)
