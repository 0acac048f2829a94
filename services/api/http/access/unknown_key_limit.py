"""Limit how many API keys that do not exist a client address may try, because each one costs a query.

Each process counts on its own, because the limit protects its own connections to Postgres. Requests with a cached key are not
limited, from any address.
"""

from ipaddress import AddressValueError, IPv6Address, IPv6Network

from services.api.http.access.rate_windows import WINDOW_MS, Window
from shared.errors import RateLimited
from shared.infra import metrics

# How many addresses and keys are remembered. The oldest are dropped first.
_ADDRESSES = 10_000
_UNKNOWN_KEYS = 10_000
# How long an unknown key is refused without a new query. New keys are random, so only restoring a backup can make an unknown
# key valid.
_UNKNOWN_MS = 10_000


class UnknownKeyLimit:
    """Allows each address ``limit`` unknown keys a minute. 0 means no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: dict[str, Window] = {}
        self._unknown: dict[bytes, int] = {}

    def is_unknown(self, digest: bytes, now_ms: int) -> bool:
        """Return whether this key was looked up a moment ago and did not exist. Saves repeated queries."""
        return now_ms - self._unknown.get(digest, -_UNKNOWN_MS) < _UNKNOWN_MS

    def reserve(self, address: str | None, now_ms: int) -> Window | None:
        """Count a lookup before it is made, so that simultaneous lookups cannot exceed the limit.

        If the key exists, the caller calls ``give_back`` of the returned window. Raises ``RateLimited``.
        """
        if address is None or not self._limit:
            return None
        self.check(address, now_ms)
        network = network_of(address)
        window = self._windows.get(network)
        if window is None:
            _make_room(self._windows, _ADDRESSES)
            window = self._windows[network] = Window(network, self._limit, now_ms // WINDOW_MS)
        window.take()
        return window

    def check(self, address: str | None, now_ms: int) -> None:
        """Raise ``RateLimited`` if the limit of the address is used up."""
        window = None if address is None else self._windows.get(network_of(address))
        if window is not None and window.left(now_ms) < 1:
            metrics.rate_limits.labels("limited").inc()
            raise RateLimited(
                "your address has sent too many keys that do not exist; wait a moment",
                window.wait_s(now_ms),
                code="too_many_unknown_keys",
            )

    def note(self, digest: bytes, now_ms: int) -> None:
        """Remember that a key does not exist."""
        _make_room(self._unknown, _UNKNOWN_KEYS)
        self._unknown[digest] = now_ms


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address.

    Providers give a single customer a whole /64.
    """
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
