"""Checks of LiveKit's configuration file: its keys, and the webhooks that Relay counts by.

Names and defaults are those of livekit-server v1.13.5 (pkg/config/config.go) and livekit/protocol (webhook/notifier.go,
resource_url_notifier.go, filter.go).
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from services.cli.doctor.finding import Finding
from shared.infra.settings import Settings

CHECK = "livekit.yaml"
STDIN = Path("-")
_AS_INPUT = (
    "run it as a user who may read the file, or pass it on standard input: `relay doctor --livekit-config - <FILE`"
)
WEBHOOK_PATH = "/api/webhooks/livekit"
DEFAULT_DEPTH = 200
DEFAULT_AGE_S = 30.0
# When a room of 500 participants with two tracks each closes, 2,001 events wait in one queue at the same time.
WANTED_DEPTH = 5000
WANTED_AGE_S = 600.0
NEEDED_EVENTS = {
    "room_started", "room_finished", "participant_joined", "participant_left", "participant_connection_aborted",
    "track_published", "track_unpublished", "egress_started", "egress_updated", "egress_ended", "ingress_started",
    "ingress_ended",
}  # fmt: skip
_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def check_livekit_config(path: Path, settings: Settings) -> list[Finding]:
    """Check one livekit.yaml. The file is only read; the path ``-`` is standard input."""
    shown = "standard input" if path == STDIN else str(path)
    try:
        config = yaml.safe_load(sys.stdin.buffer.read() if path == STDIN else path.read_bytes())
    except PermissionError as error:
        return [Finding(CHECK, "error", f"{shown} cannot be read: {error.strerror}", _AS_INPUT)]
    except OSError as error:
        return [
            Finding(CHECK, "error", f"{shown} cannot be read: {error.strerror}", "name LiveKit's configuration file")
        ]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" (line {place.line + 1})" if place is not None else ""
        return [
            Finding(
                CHECK, "error", f"{shown} is not valid YAML{where}", "correct it; LiveKit does not start with it either"
            )
        ]
    if not isinstance(config, dict):
        return [Finding(CHECK, "error", f"{shown} holds no settings", "name LiveKit's configuration file")]
    findings = [*_keys(config, settings), *_webhook(config, settings)]
    return findings or [Finding(CHECK, "ok", f"{shown} has everything that Relay needs")]


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _keys(config: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    keys = _section(config, "keys")
    if not keys:
        if not config.get("key_file"):
            yield Finding(
                CHECK,
                "note",
                "there are no keys: in this file",
                "nothing to do if LiveKit gets them from its environment",
            )
        return
    if settings.livekit_api_key not in keys:
        advice = f"add `{settings.livekit_api_key}: <LIVEKIT_API_SECRET>` under keys:"
        yield Finding(CHECK, "error", "keys: does not hold Relay's LIVEKIT_API_KEY", advice)
    elif str(keys[settings.livekit_api_key]) != settings.livekit_api_secret:
        fact = "the secret of LIVEKIT_API_KEY under keys: is not Relay's LIVEKIT_API_SECRET"
        yield Finding(CHECK, "error", fact, "make them the same; docs/security.md says how without losing events")


def _webhook(config: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    webhook = _section(config, "webhook")
    wanted = settings.relay_api_url + WEBHOOK_PATH
    urls = webhook.get("urls")
    urls = [str(url) for url in urls] if isinstance(urls, list) else []
    relay_positions = [number for number, url in enumerate(urls) if urlsplit(url).path.rstrip("/") == WEBHOOK_PATH]
    if not relay_positions:
        advice = (
            f"add under webhook: `urls: [{wanted}]` and `api_key: {settings.livekit_api_key}`, then restart LiveKit"
        )
        yield Finding(CHECK, "error", "webhook.urls does not name Relay: no usage is counted", advice)
        return
    yield from _urls(urls, relay_positions, wanted)
    api_key = str(webhook.get("api_key", ""))
    accepted = {settings.livekit_api_key, settings.livekit_previous.api_key if settings.livekit_previous else ""} - {""}
    if api_key not in accepted:
        fact = f"webhook.api_key is {api_key or 'not set'}; Relay accepts only webhooks signed with LIVEKIT_API_KEY"
        yield Finding(CHECK, "error", fact, f"set `webhook.api_key: {settings.livekit_api_key}`")
    yield from _queue(_section(webhook, "resource_url_notifier"))
    yield from _filter(_section(webhook, "filter_params"))
    if _section(config, "room").get("enable_full_room_in_webhooks"):
        yield Finding(
            CHECK,
            "note",
            "room.enable_full_room_in_webhooks is on: every track event carries the whole room with its metadata",
            "turn it off: Relay needs only the room's sid and name, and small events leave LiveKit's queue faster",
        )


def _urls(urls: list[str], relay_positions: list[int], wanted: str) -> Iterator[Finding]:
    first = relay_positions[0]
    if wanted not in (url.rstrip("/") for url in urls):
        fact = f"webhook.urls names {urls[first]}, but by RELAY_API_URL it would be {wanted}"
        yield Finding(
            CHECK,
            "note",
            fact,
            "nothing to do if LiveKit reaches Relay at another address than clients do, as in compose",
        )
    if len(relay_positions) > 1:
        fact = f"webhook.urls names Relay {len(relay_positions)} times: it sends every event as often, and Relay counts it once"
        yield Finding(CHECK, "warning", fact, "keep one of them")
    if first > 0:
        fact = "Relay is not the first of webhook.urls: if the queue of a URL before it is full, LiveKit does not send to Relay"
        yield Finding(CHECK, "warning", fact, "move Relay's URL to the front")


def _queue(queue: dict[str, Any]) -> Iterator[Finding]:
    depth = queue.get("max_depth") or DEFAULT_DEPTH
    age_s = _seconds(queue.get("max_age")) or DEFAULT_AGE_S
    if not isinstance(depth, int) or depth < WANTED_DEPTH:
        fact = f"LiveKit drops events of a room beyond {depth} waiting ones: when a large room closes, its last events are lost"
        advice = f"set `webhook.resource_url_notifier.max_depth: {WANTED_DEPTH}`"
        yield Finding(CHECK, "warning", fact, advice)
    if age_s < WANTED_AGE_S:
        fact = f"LiveKit drops events that waited {age_s:g} s: if Relay is down for longer, events are lost"
        advice = f"set `webhook.resource_url_notifier.max_age: {WANTED_AGE_S / 60:g}m`"
        yield Finding(CHECK, "warning", fact, advice)


def _filter(params: dict[str, Any]) -> Iterator[Finding]:
    included, excluded = params.get("include_events") or [], params.get("exclude_events") or []
    # LiveKit reads exclude_events only if include_events is empty.
    lost = NEEDED_EVENTS - set(included) if included else NEEDED_EVENTS & set(excluded)
    if lost:
        fact = f"webhook.filter_params holds back events that Relay counts by: {', '.join(sorted(lost))}"
        yield Finding(CHECK, "error", fact, "remove filter_params, or let these events through")


def _seconds(value: Any) -> float | None:
    """Parse a Go duration such as ``1m30s``. A bare number is in nanoseconds, as in LiveKit's YAML reader."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * 1e-9
    parts = _GO_DURATION.findall(str(value or ""))
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in parts) if parts else None
