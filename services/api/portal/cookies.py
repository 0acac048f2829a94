"""Sign and check the portal's cookies and the token of its forms.

256 random bits identify a browser. They are signed with AUTH_SECRET, so a made-up value costs no query. A row in Postgres (by
the SHA-256 of the bits) makes them a signed-in session, so a session can be revoked there. A change of AUTH_SECRET signs
everybody out, unless AUTH_SECRET_PREVIOUS holds the old one. Signing in always creates new bits, so a cookie that an attacker
planted before is useless (session fixation).
"""

import base64
import hmac
import secrets

from litestar.datastructures import Cookie

MAX_AGE_S = 30 * 24 * 3600
DEVICE_MAX_AGE_S = 365 * 24 * 3600


def _derived(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), f"relay portal {purpose}".encode(), "sha256")


def _signature(key: bytes, browser: str) -> str:
    raw = hmac.digest(key, browser.encode("utf-8", "replace"), "sha256")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))


class Cookies:
    """Reads and writes the cookies.

    ``secure``: the instance is reached by https. Cookies signed with ``previous`` are accepted, but not created.
    """

    def __init__(self, auth_secret: str, secure: bool, previous: str | None = None) -> None:
        secrets_taken = [auth_secret, *([previous] if previous is not None else [])]
        self._session_keys = [_derived(secret, "session") for secret in secrets_taken]
        self._form_keys = [_derived(secret, "form") for secret in secrets_taken]
        self._device_keys = [_derived(secret, "device") for secret in secrets_taken]
        self.secure = secure
        # Browsers accept a cookie with this prefix only from this host and over https.
        self.name = "__Host-relay" if secure else "relay"
        self.device_name = f"{self.name}-device"

    def new_browser(self) -> str:
        return secrets.token_urlsafe(32)

    def read(self, value: str | None) -> tuple[str, bool] | None:
        """Return the browser's bits if Relay signed them, and whether with the current secret.

        If not, write the cookie again.
        """
        browser, _, signature = (value or "").partition(".")
        for number, key in enumerate(self._session_keys):
            if _same(_signature(key, browser), signature):
                return browser, number == 0
        return None

    def header(self, browser: str) -> str:
        """Return a ``Set-Cookie`` value."""
        signature = _signature(self._session_keys[0], browser)
        secure = "; Secure" if self.secure else ""
        return f"{self.name}={browser}.{signature}; Path=/; Max-Age={MAX_AGE_S}; HttpOnly; SameSite=Lax{secure}"

    def device_is_known(self, value: str | None, email: str) -> bool:
        """Return whether this browser has signed in to the account before."""
        nonce, _, signature = (value or "").partition(".")
        return any(_same(_signature(key, f"{nonce} {email}"), signature) for key in self._device_keys)

    def device_cookie(self, email: str) -> Cookie:
        """Return a cookie that proves that this browser has signed in to the account (OWASP's device cookie).

        It signs nobody in.
        """
        nonce = secrets.token_urlsafe(16)
        return Cookie(
            self.device_name,
            value=f"{nonce}.{_signature(self._device_keys[0], f'{nonce} {email}')}",
            max_age=DEVICE_MAX_AGE_S,
            httponly=True,
            samesite="lax",
            secure=self.secure,
        )

    def form_token(self, browser: str) -> str:
        """Return the token that each form of this browser must carry."""
        return _signature(self._form_keys[0], browser)

    def form_token_is_right(self, browser: str, token: str) -> bool:
        """Return whether a form carries the right token. Pages opened before a change of the secret count."""
        return any(_same(_signature(key, browser), token) for key in self._form_keys)
