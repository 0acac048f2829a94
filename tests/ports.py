"""Ports for servers that are started a moment later."""

import random
import socket

# Below those that Linux takes for outgoing connections: one of these could be taken between the look and the start.
_FIRST, _BEYOND = 10_000, 22_000
_BUS = 10_000  # the bus of a Redis Cluster listens this far above its node's port
# Not the generator that a seed of the tests sets: processes that run tests beside each other would look at the same ones.
_random = random.SystemRandom()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody uses, on any address."""
    return _first_free((0,), kind)


def two_free_ports() -> int:
    """The first of two that follow each other."""
    return _first_free((0, 1))


def bus_free_port() -> int:
    """A port whose cluster bus is free as well."""
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
