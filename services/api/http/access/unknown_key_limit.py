"""Limits how many API keys that do not exist a client address may try: each one costs a query.

Each process counts on its own, because the limit protects this process's share of Postgres. Keys that this process knows are
not affected, from whatever address they come.
"""

from ipaddress import AddressValueError, IPv6Address, IPv6Network

from services.api.http.access.rate_windows import WINDOW_MS, Window
from shared.errors import RateLimited
from shared.infra import metrics

# How many addresses and keys are remembered. The oldest are dropped first.
_ADDRESSES = 10_000
_UNKNOWN_KEYS = 10_000
# How long an unknown key is refused without a new query. Only restoring a backup can create a key whose secret was tried
# before.
_UNKNOWN_MS = 10_000


class UnknownKeyLimit:
    """Allows ``limit`` unknown keys a minute and address; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: dict[str, Window] = {}
        self._unknown: dict[bytes, int] = {}

    def is_unknown(self, digest: bytes, now_ms: int) -> bool:
        """Whether this key was looked up a moment ago and did not exist. A client that repeats a wrong key costs nothing."""
        return now_ms - self._unknown.get(digest, -_UNKNOWN_MS) < _UNKNOWN_MS

    def reserve(self, address: str | None, now_ms: int) -> Window | None:
        """Counts a look-up before it is made, so that look-ups at the same time cannot pass the limit.

        If the key exists, the caller gives one request back to the returned window. Raises ``RateLimited``.
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
        """Raises ``RateLimited`` if the limit of the address is used up."""
        window = None if address is None else self._windows.get(network_of(address))
        if window is not None and window.left(now_ms) < 1:
            metrics.rate_limits.labels("limited").inc()
            raise RateLimited(
                "your address has sent too many keys that do not exist; wait a moment",
                window.wait_s(now_ms),
                code="too_many_unknown_keys",
            )

    def note(self, digest: bytes, now_ms: int) -> None:
        """Remembers that a key does not exist."""
        _make_room(self._unknown, _UNKNOWN_KEYS)
        self._unknown[digest] = now_ms


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, which a single customer is given."""
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
