"""Check the ``Host`` of requests to the portal's pages, against DNS rebinding.

Another site can let its own name resolve to this machine, and then read pages and send forms as if it were the portal. Its
requests still carry that name as ``Host``.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

# Nobody can register names under these suffixes.
_PRIVATE_SUFFIXES = (".localhost", ".internal")


class AllowedHosts:
    """The host names under which the portal answers.

    These are the host of ``relay_api_url``, ``further`` names, IP addresses, and names that public DNS cannot resolve.
    """

    def __init__(self, relay_api_url: str, further: Iterable[str]) -> None:
        self._names = {(urlsplit(relay_api_url).hostname or "").lower(), *(name.lower() for name in further)}

    def allow(self, host: str | None) -> bool:
        """Return whether a ``Host`` header names this instance. A browser always sends one."""
        name = _name_of(host or "")
        if name is None:
            return False
        # A name of one label, such as a service of Compose, resolves only in the machine's own network.
        return "." not in name or name in self._names or name.endswith(_PRIVATE_SUFFIXES) or _is_address(name)


def _name_of(host: str) -> str | None:
    """Return the name in ``host[:port]``, without a trailing dot; None if the header is malformed."""
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
