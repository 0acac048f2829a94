"""Free ports for servers that start a moment later."""

import random
import socket

# Below the ports that Linux uses for outgoing connections, which could take one before the server starts.
_FIRST, _BEYOND = 10_000, 22_000
_BUS = 10_000  # the cluster bus of a Redis node listens this far above the port of the node
# Not the generator that the tests seed: parallel test processes would try the same ports.
_random = random.SystemRandom()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that is free on every address."""
    return _first_free((0,), kind)


def two_free_ports() -> int:
    """Return the first of two consecutive free ports."""
    return _first_free((0, 1))


def bus_free_port() -> int:
    """Return a free port whose cluster bus port is free too."""
    return _first_free((0, _BUS))


def _first_free(offsets: tuple[int, ...], kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    for port in _random.sample(range(_FIRST, _BEYOND), 500):
        if all(_is_free(port + offset, kind) for offset in offsets):
            return port
    raise AssertionError(f"no free port between {_FIRST} and {_BEYOND}")


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("", port))  # LiveKit's media ports are bound to all addresses
        except OSError:
            return False
    return True
