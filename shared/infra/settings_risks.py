"""Find dangerous settings, for the start of a service and for `relay doctor`."""

import logging
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from shared.infra.settings import Settings
from shared.infra.settings_table import is_quoted

_LOCAL_NAMES = {"localhost", ""}
# LiveKit itself warns about shorter secrets (livekit-server, config.go: ValidateKeys).
_LIVEKIT_SECRET_LENGTH = 32
_AUTH_SECRET_LENGTH = 24
_DIFFERENT_CHARACTERS = 8
_QUOTES_ADVICE = "`docker run --env-file` and Kubernetes keep quotes as a part of the value: write it without them"


log = logging.getLogger("relay.settings")


class Risk(NamedTuple):
    """A setting that no deployment should have.

    ``note``: good to know. ``warning``: should be changed. ``error``: open to others, or does not work.
    """

    level: Literal["note", "warning", "error"]
    fact: str
    advice: str


def is_local_host(host: str) -> bool:
    """Return whether a host name or address belongs to this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in _LOCAL_NAMES or host.endswith(".localhost")


def is_local(url: str) -> bool:
    """Return whether a URL points to this machine."""
    return is_local_host(urlsplit(url).hostname or "")


def is_published(secret: str) -> bool:
    """Return whether a secret is public: in LiveKit's documentation, or in deploy/demo.env."""
    return secret == "secret" or secret.startswith("demo-")  # noqa: S105  # the published one


def _quoted_secrets(settings: Settings) -> Iterator[Risk]:
    previous = settings.livekit_previous
    secrets = {
        "LIVEKIT_API_SECRET": settings.livekit_api_secret,
        "AUTH_SECRET": settings.auth_secret,
        "AUTH_SECRET_PREVIOUS": settings.auth_secret_previous or "",
        "LIVEKIT_API_SECRET_PREVIOUS": previous.api_secret if previous else "",
    }
    for name, secret in secrets.items():
        if is_quoted(secret):
            yield Risk("warning", f"{name} has quotes around it: the secret without them is refused", _QUOTES_ADVICE)


def risks_of(settings: Settings) -> Iterator[Risk]:
    """Yield the values and combinations that services accept but no deployment should have.

    No text holds a secret.
    """
    yield from _quoted_secrets(settings)
    public = not is_local(settings.relay_api_url)
    if is_published(settings.livekit_api_secret):
        yield Risk(
            "error" if public or not is_local(settings.livekit_url) else "note",
            "LIVEKIT_API_SECRET is a published one (`livekit-server --dev`, deploy/demo.env): anybody can sign with it",
            "this is fine on your own machine; elsewhere create a pair with `livekit-server generate-keys`",
        )
    elif len(settings.livekit_api_secret) < _LIVEKIT_SECRET_LENGTH:
        yield Risk(
            "warning",
            f"LIVEKIT_API_SECRET has {len(settings.livekit_api_secret)} characters; LiveKit asks for {_LIVEKIT_SECRET_LENGTH}",
            "create a pair with `livekit-server generate-keys` and replace it as docs/security.md says",
        )
    if is_published(settings.auth_secret):
        yield Risk(
            "error" if public else "note",
            "AUTH_SECRET is a published one (deploy/demo.env): anybody can sign portal sessions with it",
            "this is fine on your own machine; elsewhere set it to the output of `openssl rand -base64 32`",
        )
    elif len(settings.auth_secret) < _AUTH_SECRET_LENGTH or len(set(settings.auth_secret)) < _DIFFERENT_CHARACTERS:
        yield Risk(
            "warning" if public else "note",
            "AUTH_SECRET is easy to guess: it is short, or repeats few characters",
            "set it to the output of `openssl rand -base64 32` and replace it as docs/security.md says",
        )
    for name, url, secure in (
        ("RELAY_API_URL", settings.relay_api_url, "https"),
        ("LIVEKIT_URL", settings.livekit_url, "wss"),
    ):
        if not is_local(url) and urlsplit(url).scheme != secure:
            yield Risk(
                "warning",
                f"{name} is not encrypted ({urlsplit(url).scheme}://): everyone on the way can read keys and tokens",
                f"put TLS in front and use {secure}:// (browsers allow a microphone only on secure pages)",
            )
    if public and is_local(settings.livekit_url):
        yield Risk(
            "error",
            "LIVEKIT_URL is a loopback address: clients would look for LiveKit on their own machine",
            "set LIVEKIT_URL to the address that clients reach, and LIVEKIT_API_URL to the local address",
        )
    if settings.livekit_previous is not None:
        yield Risk(
            "note",
            "the previous LiveKit key pair is still accepted for webhooks",
            "when LiveKit signs with the new pair, remove LIVEKIT_API_SECRET_PREVIOUS and LIVEKIT_API_KEY_PREVIOUS",
        )
    if settings.auth_secret_previous is not None:
        yield Risk(
            "note",
            "portal sessions signed with the previous AUTH_SECRET are still accepted",
            "remove AUTH_SECRET_PREVIOUS 14 days after the change: by then every active session has a new cookie",
        )
    if settings.reconcile_interval_s == 0:
        yield Risk(
            "warning",
            "reconciliation is off: usage that a lost webhook would have reported stays missing",
            "remove RECONCILE_INTERVAL_SECONDS=0",
        )


def log_risks(settings: Settings) -> None:
    """Log each warning and error in one line, at the start of a service."""
    for level, fact, advice in risks_of(settings):
        if level != "note":
            log.log(logging.ERROR if level == "error" else logging.WARNING, "settings: %s. %s", fact, advice)
