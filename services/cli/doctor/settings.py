"""What the settings alone tell."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from services.cli.doctor.finding import Finding
from shared.settings import Settings

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
# LiveKit itself warns of anything shorter (livekit-server, config.go: ValidateKeys).
_LIVEKIT_SECRET_LENGTH = 32


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return urlsplit(url).hostname in _LOOPBACK


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Combinations that each service accepts and no deployment should have."""
    public = not is_local(settings.relay_api_url)
    if settings.livekit_api_secret == "secret" or settings.livekit_api_secret.startswith("demo-"):  # noqa: S105 - published
        yield Finding(
            "settings",
            "error" if public or not is_local(settings.livekit_url) else "note",
            "LIVEKIT_API_SECRET is a published one (`livekit-server --dev`, deploy/demo.env): anybody can sign with it",
            "fine on one's own machine; elsewhere make a pair with `livekit-server generate-keys`",
        )
    elif len(settings.livekit_api_secret) < _LIVEKIT_SECRET_LENGTH:
        yield Finding(
            "settings",
            "warning",
            f"LIVEKIT_API_SECRET has {len(settings.livekit_api_secret)} characters; LiveKit asks for {_LIVEKIT_SECRET_LENGTH}",
            "make a pair with `livekit-server generate-keys` and change over as docs/security.md says",
        )
    for name, url, secure in (
        ("RELAY_API_URL", settings.relay_api_url, "https"),
        ("LIVEKIT_URL", settings.livekit_url, "wss"),
    ):
        if not is_local(url) and urlsplit(url).scheme != secure:
            yield Finding(
                "settings",
                "warning",
                f"{name} is not encrypted ({urlsplit(url).scheme}://): keys and tokens travel readable",
                f"put TLS in front and use {secure}:// (browsers allow a microphone on secure pages only)",
            )
    if public and is_local(settings.livekit_url):
        yield Finding(
            "settings",
            "error",
            "clients are told to connect to LiveKit on their own machine: LIVEKIT_URL is a loopback address",
            "set LIVEKIT_URL to the address that clients reach, and LIVEKIT_API_URL to the local one",
        )
    if settings.livekit_previous is not None:
        yield Finding(
            "settings",
            "note",
            "a previous LiveKit key pair is still accepted for webhooks",
            "once LiveKit signs with the new one, remove LIVEKIT_API_SECRET_PREVIOUS and LIVEKIT_API_KEY_PREVIOUS",
        )
    if settings.auth_secret_previous is not None:
        yield Finding(
            "settings",
            "note",
            "a second AUTH_SECRET still vouches for portal sessions",
            "remove AUTH_SECRET_PREVIOUS 14 days after the change: whoever came back has a cookie of the new one by then",
        )
    if settings.reconcile_interval_s == 0:
        yield Finding(
            "settings",
            "warning",
            "reconciliation is off: a webhook that LiveKit could not deliver stays lost",
            "remove RECONCILE_INTERVAL_SECONDS=0",
        )
