"""Read the information about an egress or a run of an ingress from an event.

In LiveKit's events their times are unix nanoseconds (livekit/protocol 1.50).
"""

import msgspec

from shared.errors import UnfoldableEvent
from shared.infra.ids import RoomName
from shared.metering.bounds import EARLIEST_MS, FUTURE_TOLERANCE_MS, MAX_TEXT
from shared.metering.hours import MAX_SESSION_DAYS, MAX_SESSION_MS
from shared.metering.state import MediaRun
from shared.models.livekit_event import IngressInfo, LiveKitEvent, OwnEvent

# Names of the events that reconciliation makes about egresses and ingresses.
EGRESS_SEEN, EGRESS_GONE = "relay_egress_seen", "relay_egress_gone"
INGRESS_SEEN, INGRESS_GONE = "relay_ingress_seen", "relay_ingress_gone"
_RUN_GONE = {EGRESS_GONE, INGRESS_GONE}
_NS_PER_MS = 1_000_000


def reconciled_times(event: LiveKitEvent) -> tuple[int | None, int | None]:
    """Return when reconciliation last saw the event's subject, and since when it is missing (unix ms)."""
    if not isinstance(event, OwnEvent) or event.relay is None:
        return None, None
    return event.relay.seen_ms or None, event.relay.gone_ms or None


def observed_run(event: LiveKitEvent, owner: RoomName | None, created_ms: int) -> MediaRun | None:
    """Return the egress or the run of an ingress that the event describes; None if it has no id.

    Raises ``UnfoldableEvent`` for an implausible time.
    """
    run = _egress(event, created_ms) or _ingress(event, created_ms)
    if run is None:
        return None
    seen_ms, gone_ms = reconciled_times(event)
    return msgspec.structs.replace(
        run,
        project_id=owner.project_id if owner else None,
        mode=owner.mode if owner else None,
        room=owner.display if owner else None,
        sighted_ms=seen_ms,
        gone_ms=gone_ms if event.event in _RUN_GONE else None,
    )


def _egress(event: LiveKitEvent, created_ms: int) -> MediaRun | None:
    info = event.egress_info
    if info is None or not info.egress_id:
        return None
    ended_ms = _checked_ns(info.ended_at, created_ms)
    return MediaRun(
        id=info.egress_id,
        meter="egress",
        type=next((name for name in EGRESS_TYPES if getattr(info, name) is not None), None),
        started_ms=_checked_ns(info.started_at, created_ms),
        ended_ms=created_ms if ended_ms is None and event.event == "egress_ended" else ended_ms,
    )


EGRESS_TYPES = ("room_composite", "web", "participant", "track_composite", "track")


def _ingress(event: LiveKitEvent, created_ms: int) -> MediaRun | None:
    info = event.ingress_info
    if info is None or not info.ingress_id:
        return None
    state = info.state
    started_ms = _checked_ns(state.started_at, created_ms) if state else None
    ended_ms = _checked_ns(state.ended_at, created_ms) if state else None
    return MediaRun(
        id=ingress_run_id(info),
        meter="ingress",
        type=str(info.input_type)[:MAX_TEXT].removesuffix("_INPUT").lower() or None,
        started_ms=created_ms if started_ms is None and event.event == "ingress_started" else started_ms,
        ended_ms=created_ms if ended_ms is None and event.event == "ingress_ended" else ended_ms,
    )


def ingress_run_id(info: IngressInfo) -> str:
    """Return the id of one run of an ingress, which can be used many times.

    The resource id distinguishes the runs. Older servers send none; then the start (unix ms) does.
    """
    state = info.state
    run = (state.resource_id if state else "") or str((state.started_at if state else 0) // _NS_PER_MS or "")
    return f"{info.ingress_id}/{run}"


def _checked_ns(at_ns: int, created_ms: int) -> int | None:
    """Convert unix nanoseconds to milliseconds; None for 0.

    Raises ``UnfoldableEvent`` for an implausible time.
    """
    at_ms = at_ns // _NS_PER_MS
    if not at_ms:
        return None
    if not EARLIEST_MS <= at_ms <= created_ms + FUTURE_TOLERANCE_MS:
        raise UnfoldableEvent("no_time", "a time of the egress or ingress cannot be true")
    if at_ms < created_ms - MAX_SESSION_MS:
        raise UnfoldableEvent("too_long", f"the egress or ingress began over {MAX_SESSION_DAYS} days before the event")
    return at_ms
