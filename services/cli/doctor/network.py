"""LiveKit and this instance's own address, asked over the network."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from services.cli.doctor.finding import Finding
from services.cli.doctor.settings import is_local
from shared.errors import LiveKitCredentialsRefused, LiveKitError, LiveKitTimedOut
from shared.infra.clock import Clock
from shared.infra.settings import Settings
from shared.livekit.room_service import RoomService
from shared.livekit.webhook import LEEWAY_S, PROBE_BODY, TOKEN_TTL_S, WebhookSigner

TIMEOUT_S = 5.0
# The Date header counts whole seconds, and an answer takes its time.
_UNSEEN_SKEW_S = 3.0
_WEBHOOK_PATH = "/api/webhooks/livekit"
PUBLIC = "RELAY_API_URL"


async def check_livekit(settings: Settings, clock: Clock) -> list[Finding]:
    """Reachable with our credentials, and with a clock like ours."""
    url = settings.livekit_api_url
    try:
        async with RoomService(url, settings.livekit_api_key, settings.livekit_api_secret, clock) as service:
            await service.list_rooms(["relay-doctor"])
    except LiveKitCredentialsRefused as error:
        advice = "compare `keys:` in livekit.yaml with LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and the clocks"
        return [Finding("livekit", "error", str(error), advice), *await _clock_skew(url, clock)]
    except LiveKitError as error:
        advice = f"is LiveKit running, and reachable from here at {url}? LIVEKIT_API_URL names another address"
        fact = "LiveKit did not answer in time" if isinstance(error, LiveKitTimedOut) else str(error)
        return [Finding("livekit", "error", fact, advice)]
    return [
        Finding("livekit", "ok", f"LiveKit answers at {url} and knows our key"),
        *await _clock_skew(url, clock),
    ]


async def _clock_skew(url: str, clock: Clock) -> list[Finding]:
    try:
        async with httpx.AsyncClient(trust_env=not is_local(url), timeout=TIMEOUT_S) as client:
            told = (await client.get(url)).headers.get("date", "")
        theirs = parsedate_to_datetime(told)
    except (httpx.HTTPError, ValueError):
        return [Finding("clock", "note", "LiveKit did not tell its time", "")]
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    skew_s = (datetime.fromtimestamp(clock.now_ms() / 1000, UTC) - theirs).total_seconds()
    if abs(skew_s) <= _UNSEEN_SKEW_S:
        return [Finding("clock", "ok", "LiveKit's clock and ours agree to a few seconds")]
    refused = abs(skew_s) > LEEWAY_S
    fact = f"our clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} LiveKit's"
    what = "webhooks and tokens are refused" if refused else "usage of open sessions is off by as much"
    return [Finding("clock", "error" if refused else "warning", f"{fact}: {what}", "run NTP on both machines")]


async def check_own_address(settings: Settings, now_ms: int) -> list[Finding]:
    """Whether a Relay with our LiveKit secret is ready at the internal address and at RELAY_API_URL."""
    findings = await _check_address("RELAY_INTERNAL_URL" if settings.relay_internal_url else PUBLIC, settings, now_ms)
    if settings.relay_internal_url:
        findings += await _check_public_address(settings, now_ms)
    return findings


async def _check_public_address(settings: Settings, now_ms: int) -> list[Finding]:
    """RELAY_API_URL, where the internal address was checked already. Behind NAT, or in a container, it may be out of reach."""
    base = settings.relay_api_url
    if is_local(base):
        fact = f"{base} ({PUBLIC}) was not asked: seen from here it may be another machine"
        return [Finding("public address", "note", fact, "open it on the machine where Relay is published")]
    findings = await _check_address(PUBLIC, settings, now_ms)
    if [finding.check for finding in findings] == ["api"]:
        advice = "behind NAT this may be normal from inside; try it from LiveKit's machine"
        return [Finding("public address", "warning", findings[0].fact, advice)]
    return [msgspec.structs.replace(finding, check="public address") for finding in findings]


async def _check_address(name: str, settings: Settings, now_ms: int) -> list[Finding]:
    """Readiness and intake at one address. Nothing is stored: an expired signature is refused, but only after the api found
    that it was made with its own secret."""
    base = settings.relay_api_url if name == PUBLIC else settings.own_url
    long_ago_s = now_ms // 1000 - TOKEN_TTL_S - LEEWAY_S - 3600
    signature = WebhookSigner(settings.livekit_api_key, settings.livekit_api_secret).sign(PROBE_BODY, now_s=long_ago_s)
    try:
        async with httpx.AsyncClient(trust_env=_goes_through_proxies(name, base), timeout=TIMEOUT_S) as client:
            ready = await client.get(f"{base}/readyz")
            answer = await client.post(
                f"{base}{_WEBHOOK_PATH}", content=PROBE_BODY, headers={"Authorization": signature}
            )
            metrics = await client.get(f"{base}/metrics")
    except httpx.HTTPError as error:
        fact = f"{base} ({name}) cannot be reached from here ({type(error).__name__})"
        advice = "start the api; behind a proxy or NAT this may be normal from inside, so try it from LiveKit's machine"
        return [Finding("api", "error", fact, advice)]
    findings = [_readiness(base, ready), _intake(base, answer)]
    if name == PUBLIC and not is_local(base) and metrics.status_code == 200 and b"relay_" in metrics.content:
        fact = f"{base}/metrics can be read by anybody"
        findings.append(
            Finding("api", "warning", fact, "keep /metrics from the public at the proxy (docs/operations.md)")
        )
    return findings


def _goes_through_proxies(name: str, base: str) -> bool:
    """Whether HTTP_PROXY applies: never to an address of this machine or of the network inside."""
    return name == PUBLIC and not is_local(base)


def _readiness(base: str, answer: httpx.Response) -> Finding:
    if answer.status_code == 200:
        return Finding("api", "ok", f"{base}/readyz says ready")
    wrong = answer.text[:300] if answer.status_code == 503 else f"status {answer.status_code}"
    return Finding("api", "error", f"{base}/readyz is not ready: {wrong}", "mend what it names")


def _intake(base: str, answer: httpx.Response) -> Finding:
    try:
        code = str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    where = f"{base}{_WEBHOOK_PATH}"
    match code:
        case "expired":
            return Finding("webhook address", "ok", f"{where} takes what LiveKit signs")
        case "bad_signature" | "wrong_api_key":
            fact = f"{where} runs with another LiveKit key pair than the one set here"
            return Finding("webhook address", "error", fact, "give all processes the same LIVEKIT_API_KEY and SECRET")
    fact = f"{where} answered {answer.status_code}, which is no answer of Relay"
    return Finding("webhook address", "error", fact, "does the proxy pass this path on to the api?")
