"""Who keeps sending API keys that do not exist. Each costs a query, so there is an end to it for each client address.

Counted in each process for itself: what is protected is this process's share of Postgres, and a flood must not become one on
Redis. Keys that this process knows are not concerned, wherever they come from.
"""

from ipaddress import AddressValueError, IPv6Address, IPv6Network

from services.api.rate_windows import WINDOW_MS, Window
from shared import metrics
from shared.errors import RateLimited

# The addresses and the keys that are remembered; the oldest go first.
_ADDRESSES = 10_000
_UNKNOWN_KEYS = 10_000
# For how long a key that did not exist is answered without asking again. Only a restored backup can make one exist whose secret
# was tried before.
_UNKNOWN_MS = 10_000


class Strangers:
    """``limit`` keys a minute and address; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: dict[str, Window] = {}
        self._unknown: dict[bytes, int] = {}

    def is_unknown(self, digest: bytes, now_ms: int) -> bool:
        """Whether this key was looked up a moment ago and did not exist: a client with a wrong key in a loop costs nothing."""
        return now_ms - self._unknown.get(digest, -_UNKNOWN_MS) < _UNKNOWN_MS

    def check(self, address: str | None, now_ms: int) -> None:
        """Before a key is looked up. Raises ``RateLimited``."""
        window = None if address is None else self._windows.get(network_of(address))
        if window is not None and window.left(now_ms) < 1:
            metrics.rate_limits.labels("limited").inc()
            raise RateLimited(
                "too many keys that do not exist came from your address; wait a moment",
                window.wait_s(now_ms),
                code="too_many_unknown_keys",
            )

    def note(self, digest: bytes, address: str | None, now_ms: int) -> None:
        """A key did not exist."""
        _make_room(self._unknown, _UNKNOWN_KEYS)
        self._unknown[digest] = now_ms
        if address is None or not self._limit:
            return
        network = network_of(address)
        window = self._windows.get(network)
        if window is None:
            _make_room(self._windows, _ADDRESSES)
            window = self._windows[network] = Window(network, self._limit, now_ms // WINDOW_MS)
        window.left(now_ms)
        window.take()


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the 64 bits of an IPv6 one that a single customer is given."""
    try:
        v6 = IPv6Address(address)
    except AddressValueError:
        return address
    if v6.ipv4_mapped is not None:
        return str(v6.ipv4_mapped)
    return str(IPv6Network((v6, 64), strict=False).network_address)


def _make_room(remembered: "dict[str, Window] | dict[bytes, int]", limit: int) -> None:
    if len(remembered) >= limit:
        del remembered[next(iter(remembered))]  # type: ignore[arg-type]  # a key of the same dict
