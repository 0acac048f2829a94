"""Sign LiveKit access tokens.

The claims are those of livekit-api's ``AccessToken`` (a test compares both). The encoding is Relay's own, because this is the
hottest path: about 3 µs a token instead of 63 µs.
"""

import hmac
from base64 import urlsafe_b64encode
from typing import Any

import msgspec

_HEADER = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."
_encode = msgspec.json.Encoder().encode


class TokenSigner:
    """Signs tokens with one LiveKit API key pair."""

    def __init__(self, api_key: str, api_secret: str) -> None:
        if not api_key or not api_secret:
            raise ValueError("LiveKit's API key and secret must not be empty")
        self._api_key = api_key
        self._secret = api_secret.encode()

    def sign(self, claims: dict[str, Any], *, now_s: int, ttl_s: int) -> str:
        """Return a JWT of ``claims`` plus ``iss``, ``nbf`` (``now_s``) and ``exp`` (``ttl_s`` seconds later)."""
        payload = _encode({**claims, "iss": self._api_key, "nbf": now_s, "exp": now_s + ttl_s})
        signed = _HEADER + urlsafe_b64encode(payload).rstrip(b"=")
        signature = urlsafe_b64encode(hmac.digest(self._secret, signed, "sha256")).rstrip(b"=")
        return (signed + b"." + signature).decode()
