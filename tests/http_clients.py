"""HTTP clients for servers on this machine."""

import ssl
from typing import Any

import httpx

# httpx loads the system's CA certificates for every client, which takes 35 ms. Servers on loopback speak plain HTTP.
# This context trusts no certificate: a request over TLS fails.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def loopback_client(base_url: str = "", *, timeout: float = 20, **options: Any) -> httpx.AsyncClient:
    """Return a client that ignores proxies of the environment. ``timeout`` is in seconds; ``options`` are httpx's."""
    return httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=timeout, verify=NO_CERTIFICATES, **options)
