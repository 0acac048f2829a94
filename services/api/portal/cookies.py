"""The portal's one cookie, and the token that its forms carry.

A browser is known by 256 random bits, signed with AUTH_SECRET so that a made-up value costs no query. The bits become a
signed-in session only through a row in Postgres (by their SHA-256), so a session can be revoked there, and changing AUTH_SECRET
signs everybody out. Signing in always takes fresh bits: whoever planted a cookie beforehand holds nothing.
"""

import base64
import hashlib
import hmac
import secrets

MAX_AGE_S = 30 * 24 * 3600


def _derived(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), f"relay portal {purpose}".encode(), "sha256")


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Cookies:
    """Reads and writes the cookie. ``secure``: the instance is reached by https."""

    def __init__(self, auth_secret: str, secure: bool) -> None:
        self._session_key, self._form_key = _derived(auth_secret, "session"), _derived(auth_secret, "form")
        self.secure = secure
        # The prefix makes browsers refuse one that another host of the domain, or plain http, tries to set.
        self.name = "__Host-relay" if secure else "relay"

    def new_browser(self) -> str:
        return secrets.token_urlsafe(32)

    def read(self, value: str | None) -> str | None:
        """The browser's bits, if we signed them."""
        browser, _, signature = (value or "").partition(".")
        expected = _encoded(hmac.digest(self._session_key, browser.encode("utf-8", "replace"), "sha256"))
        return browser if hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")) else None

    def header(self, browser: str) -> str:
        """A ``Set-Cookie`` value."""
        signature = _encoded(hmac.digest(self._session_key, browser.encode(), "sha256"))
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={browser}.{signature}; Path=/; Max-Age={MAX_AGE_S}; HttpOnly; SameSite=Lax{secure}"

    def form_token(self, browser: str) -> str:
        """What each form of this browser must carry."""
        return _encoded(hmac.new(self._form_key, browser.encode(), hashlib.sha256).digest())

    def form_token_is_right(self, browser: str, token: str) -> bool:
        return hmac.compare_digest(self.form_token(browser).encode(), token.encode("utf-8", "replace"))
