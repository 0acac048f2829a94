"""Drain listening sockets before they are closed, so that no connection in their queues is lost.

The kernel completes a connection before the process accepts it, and resets connections that still wait when the socket is
closed. A proxy that does not check readiness sends requests until then, and may not repeat them.
"""

import asyncio
import ctypes
import socket
import struct
import sys
import time

_SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h
_RETURN = 0x06  # BPF_RET | BPF_K; with 0 the filter accepts no byte of a packet
_WAITING_OFFSET = 24  # tcpi_unacked of struct tcp_info: for a listening socket, the length of its queue
_WITHIN_S = 1.0


async def empty_queues(listening: list[socket.socket]) -> None:
    """Refuse new connections and wait, up to a second, until the event loop has accepted all others."""
    if sys.platform != "linux":
        return
    for each in listening:
        try:
            _refuse_packets(each)
        except OSError:
            each.listen(0)  # without the right to set a filter: at most one more connection enters the queue
    deadline = time.monotonic() + _WITHIN_S
    while any(map(_waiting, listening)) and time.monotonic() < deadline:  # noqa: ASYNC110  # the kernel has no notification for it
        await asyncio.sleep(0.001)


def _refuse_packets(listening: socket.socket) -> None:
    """Drop every packet that would open a connection.

    The client sends it again and then finds the socket closed.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(instruction)))


def _waiting(listening: socket.socket) -> int:
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING_OFFSET + 4)
    return int(struct.unpack_from("I", info, _WAITING_OFFSET)[0])
