"""Checks the ``Host`` of requests to the portal's pages, against DNS rebinding.

A page of another site can have its own name resolve to this machine and then read and send forms as if it were ours. Its
requests still carry that name as ``Host``.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

# Nobody can register a name under these.
_PRIVATE_SUFFIXES = (".localhost", ".internal")


class AllowedHosts:
    """Allows the host of ``relay_api_url``, ``further`` names, addresses, and names that no DNS of the internet answers."""

    def __init__(self, relay_api_url: str, further: Iterable[str]) -> None:
        self._names = {(urlsplit(relay_api_url).hostname or "").lower(), *(name.lower() for name in further)}

    def allow(self, host: str | None) -> bool:
        """Whether a ``Host`` header names this instance. A browser always sends one."""
        name = _name_of(host or "")
        if name is None:
            return False
        # A name of one label, such as a service of Compose, is searched in the machine's own network only.
        return "." not in name or name in self._names or name.endswith(_PRIVATE_SUFFIXES) or _is_address(name)


def _name_of(host: str) -> str | None:
    """The name in ``host[:port]``, without a closing dot; None if there is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != host or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return (parts.hostname or "").removesuffix(".") or None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
