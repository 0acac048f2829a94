"""Verify that LiveKit sent a webhook, and sign bodies as LiveKit does.

LiveKit (livekit/protocol, webhook/url_notifier.go) sends ``Authorization: <JWT>`` without ``Bearer``. The token is HS256 with
the API secret, ``iss`` is the API key, ``sha256`` the standard base64 of the body's SHA-256, valid for five minutes. Its own
verifier allows one minute of leeway (auth/verifier.go), and so does Relay. ``relay simulate`` and the tests sign bodies.
"""

import hmac
from base64 import b64decode, b64encode, urlsafe_b64encode
from functools import lru_cache
from hashlib import sha256

import msgspec

from shared.errors import WebhookRefused
from shared.livekit.access_token import TokenSigner
from shared.models.key_pair import KeyPair

LEEWAY_S = 60
TOKEN_TTL_S = 300
# `relay doctor` sends this body with a valid but long expired signature, to find out whether a server uses the same secret.
# LiveKit never sends an empty event.
PROBE_BODY = b"{}"
_PROBE_DIGEST = sha256(PROBE_BODY).digest()
_MAX_TOKEN_LENGTH = 4096


class _Header(msgspec.Struct):
    alg: str


class _Claims(msgspec.Struct):
    exp: int | float
    iss: str = ""
    sha256: str = ""
    nbf: int | float = 0


_header_decoder = msgspec.json.Decoder(_Header)
_claims_decoder = msgspec.json.Decoder(_Claims)


def _segment(text: bytes) -> bytes:
    # urlsafe_b64decode drops characters outside its alphabet; validate=True refuses them.
    return b64decode(text.translate(_URLSAFE) + b"=" * (-len(text) % 4), validate=True)


_URLSAFE = bytes.maketrans(b"-_", b"+/")


@lru_cache(maxsize=16)  # all of LiveKit's tokens have the same header; only tokens with a valid signature get here
def _algorithm(header: bytes) -> str:
    return _header_decoder.decode(_segment(header)).alg


class WebhookVerifier:
    """Verifies webhooks with a LiveKit API key pair and, during a rotation, also with the previous pair.

    An empty secret never verifies anything.
    """

    def __init__(self, api_key: str, api_secret: str, previous: KeyPair | None = None) -> None:
        pairs = (KeyPair(api_key, api_secret), *((previous,) if previous is not None else ()))
        self._pairs: list[tuple[str, bytes]] = [
            (pair.api_key, pair.api_secret.encode()) for pair in pairs if pair.api_secret
        ]

    def _signer(self, signed: bytes, signature: bytes) -> str | None:
        """Return the API key of the pair that made ``signature``."""
        for api_key, secret in self._pairs:
            # Compared as text, so that only the canonical encoding of a signature passes.
            expected = urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
            if hmac.compare_digest(expected, signature):
                return api_key
        return None

    def verify(self, body: bytes, authorization: str | None, *, now_s: float) -> None:
        """Raise ``WebhookRefused`` unless the token in ``authorization`` signs ``body`` and is valid now."""
        if not hmac.compare_digest(self.check(authorization, now_s=now_s), sha256(body).digest()):
            raise WebhookRefused("body_mismatch", "the body is not the one that was signed")

    def check(self, authorization: str | None, *, now_s: float) -> bytes:
        """Return the SHA-256 of the body that the token in ``authorization`` signs.

        It needs no body, so the body of a request that LiveKit did not send is never read. Raises ``WebhookRefused`` unless
        the token is LiveKit's and valid now.
        """
        if not self._pairs:
            raise WebhookRefused("no_secret", "this instance has no LiveKit secret to verify with")
        if not authorization:
            raise WebhookRefused("missing_signature", "the Authorization header is missing")
        if len(authorization) > _MAX_TOKEN_LENGTH:
            raise WebhookRefused("malformed_signature", "the Authorization header is too long to be a webhook token")
        token = authorization.removeprefix("Bearer ").encode("latin-1", "replace")
        try:
            header, payload, signature = token.split(b".")
        except ValueError:
            raise WebhookRefused("malformed_signature", "the Authorization header holds no JWT") from None
        # The signature is checked first: no part of an unsigned token is interpreted, in particular not its `alg`.
        api_key = self._signer(header + b"." + payload, signature)
        if api_key is None:
            raise WebhookRefused("bad_signature", "the token is not signed with LIVEKIT_API_SECRET")
        try:
            algorithm = _algorithm(header)
            claims = _claims_decoder.decode(_segment(payload))
            digest = b64decode(claims.sha256, validate=True)
        except (msgspec.DecodeError, ValueError):
            raise WebhookRefused("malformed_signature", "the token lacks a claim that LiveKit always sets") from None
        if algorithm != "HS256":
            raise WebhookRefused("malformed_signature", "the token's algorithm is not HS256")
        if claims.iss != api_key:
            raise WebhookRefused("wrong_api_key", "the token was issued by another API key than LIVEKIT_API_KEY")
        if now_s >= claims.exp + LEEWAY_S:
            raise WebhookRefused(
                "expired",
                "the token has expired; compare the clocks of LiveKit and Relay",
                signs_probe=digest == _PROBE_DIGEST,
            )
        if now_s < claims.nbf - LEEWAY_S:
            raise WebhookRefused("not_yet_valid", "the token is not valid yet; compare the clocks of LiveKit and Relay")
        return digest


class WebhookSigner:
    """Signs bodies the way LiveKit does."""

    def __init__(self, api_key: str, api_secret: str) -> None:
        self._signer = TokenSigner(api_key, api_secret)

    def sign(self, body: bytes, *, now_s: int) -> str:
        """Return the Authorization header for ``body``."""
        digest = b64encode(sha256(body).digest()).decode()
        return self._signer.sign({"sha256": digest}, now_s=now_s, ttl_s=TOKEN_TTL_S)
