"""Checks over the network: LiveKit, and the addresses of this instance."""

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
# A smaller difference says nothing: the Date header has whole seconds, and the response takes time.
_IGNORED_SKEW_S = 3.0
_WEBHOOK_PATH = "/api/webhooks/livekit"
PUBLIC = "RELAY_API_URL"


async def check_livekit(settings: Settings, clock: Clock) -> list[Finding]:
    """Check that LiveKit is reachable with our credentials, and that its clock agrees with ours."""
    url = settings.livekit_api_url
    try:
        async with RoomService(url, settings.livekit_api_key, settings.livekit_api_secret, clock) as service:
            await service.list_rooms(["relay-doctor"])
    except LiveKitCredentialsRefused as error:
        advice = "compare `keys:` in livekit.yaml with LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and the clocks"
        return [Finding("livekit", "error", str(error), advice), *await _clock_skew(url, clock)]
    except LiveKitError as error:
        advice = f"start LiveKit, or set LIVEKIT_API_URL if {url} is not its address from here"
        fact = "LiveKit did not answer in time" if isinstance(error, LiveKitTimedOut) else str(error)
        return [Finding("livekit", "error", fact, advice)]
    return [
        Finding("livekit", "ok", f"LiveKit answers at {url} and accepts our key"),
        *await _clock_skew(url, clock),
    ]


async def _clock_skew(url: str, clock: Clock) -> list[Finding]:
    try:
        async with httpx.AsyncClient(trust_env=not is_local(url), timeout=TIMEOUT_S) as client:
            date = (await client.get(url)).headers.get("date", "")
        livekit_time = parsedate_to_datetime(date)
    except (httpx.HTTPError, ValueError):
        return [Finding("clock", "note", "LiveKit's response has no time, so the clocks cannot be compared")]
    if livekit_time.tzinfo is None:
        livekit_time = livekit_time.replace(tzinfo=UTC)
    skew_s = (datetime.fromtimestamp(clock.now_ms() / 1000, UTC) - livekit_time).total_seconds()
    if abs(skew_s) <= _IGNORED_SKEW_S:
        return [Finding("clock", "ok", "LiveKit's clock and ours agree within a few seconds")]
    refused = abs(skew_s) > LEEWAY_S
    fact = f"our clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} LiveKit's"
    what = "webhooks and tokens are refused" if refused else "usage of open sessions is wrong by as much"
    return [Finding("clock", "error" if refused else "warning", f"{fact}: {what}", "run NTP on both machines")]


async def check_own_address(settings: Settings, now_ms: int) -> list[Finding]:
    """Check that a Relay with our LiveKit secret is ready at the internal address and at RELAY_API_URL."""
    findings = await _check_address("RELAY_INTERNAL_URL" if settings.relay_internal_url else PUBLIC, settings, now_ms)
    if settings.relay_internal_url:
        findings += await _check_public_address(settings, now_ms)
    return findings


async def _check_public_address(settings: Settings, now_ms: int) -> list[Finding]:
    """Check RELAY_API_URL after the internal address.

    Behind NAT, or from a container, it may be unreachable although clients reach it.
    """
    base = settings.relay_api_url
    if is_local(base):
        fact = f"{base} ({PUBLIC}) was not checked: from here it may be another machine"
        return [Finding("public address", "note", fact, "open it in a browser on the machine that publishes Relay")]
    findings = await _check_address(PUBLIC, settings, now_ms)
    if [finding.check for finding in findings] == ["api"]:
        advice = "behind NAT this can be normal; try the address from LiveKit's machine"
        return [Finding("public address", "warning", findings[0].fact, advice)]
    return [msgspec.structs.replace(finding, check="public address") for finding in findings]


async def _check_address(name: str, settings: Settings, now_ms: int) -> list[Finding]:
    """Check readiness and the webhook path at one address. Nothing is stored.

    The webhook carries an expired signature. The API refuses it as expired only after it found that the signature was made
    with its own secret.
    """
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
        advice = "start the API; behind a proxy or NAT this can be normal, so try the address from LiveKit's machine"
        return [Finding("api", "error", fact, advice)]
    findings = [_readiness(base, ready), _intake(base, answer)]
    if name == PUBLIC and not is_local(base) and metrics.status_code == 200 and b"relay_" in metrics.content:
        fact = f"{base}/metrics is open to everybody"
        findings.append(Finding("api", "warning", fact, "block /metrics at the proxy; docs/operations.md says how"))
    return findings


def _goes_through_proxies(name: str, base: str) -> bool:
    """Return whether HTTP_PROXY applies. It never applies to this machine or to the internal address."""
    return name == PUBLIC and not is_local(base)


def _readiness(base: str, answer: httpx.Response) -> Finding:
    if answer.status_code == 200:
        return Finding("api", "ok", f"{base}/readyz answers: ready")
    wrong = answer.text[:300] if answer.status_code == 503 else f"status {answer.status_code}"
    return Finding("api", "error", f"{base}/readyz is not ready: {wrong}", "repair the part that it names")


def _intake(base: str, answer: httpx.Response) -> Finding:
    try:
        code = str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    where = f"{base}{_WEBHOOK_PATH}"
    match code:
        case "expired":
            return Finding("webhook address", "ok", f"{where} accepts webhooks that LiveKit signs")
        case "bad_signature" | "wrong_api_key":
            fact = f"{where} runs with another LiveKit key pair than this command"
            return Finding(
                "webhook address",
                "error",
                fact,
                "set the same LIVEKIT_API_KEY and LIVEKIT_API_SECRET for all processes",
            )
    fact = f"{where} answered {answer.status_code}, which is not an answer of Relay"
    return Finding("webhook address", "error", fact, "check that the proxy passes this path on to the API")
