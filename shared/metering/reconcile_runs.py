"""Compare stored egresses and runs of ingresses with LiveKit's listings and decide the corrections.

The rules are those of shared/metering/reconcile.py. LiveKit lists an egress whose recorder died as active forever. If its room
is gone, the egress is over, because LiveKit ends the egresses of a room with the room.
"""

from collections.abc import Mapping
from typing import NamedTuple

from shared.infra.ids import livekit_room
from shared.metering.observe_runs import EGRESS_GONE, EGRESS_SEEN, INGRESS_GONE, INGRESS_SEEN, ingress_run_id
from shared.metering.reconcile import GRACE_MS, SETTLE_MS, Absence, Findings
from shared.metering.state import MediaRun, MeterName
from shared.models.livekit_event import EgressInfo, IngressInfo, IngressState, OwnEvent, Reconciled

_NS_PER_MS = 1_000_000
RunKey = tuple[MeterName, str]


class RunListing(NamedTuple):
    """The egresses and ingresses that LiveKit lists as active, and the sids of all rooms.

    ``egresses`` or ``ingresses`` is None if that request failed. ``started_ms``: unix ms.
    """

    started_ms: int
    egresses: Mapping[str, EgressInfo] | None
    ingresses: Mapping[str, IngressInfo] | None
    room_sids: frozenset[str]


class KnownRun(NamedTuple):
    """A stored run. ``is_open`` is False for a run that ended or never became active."""

    run: MediaRun
    confirmed_ms: int | None
    is_open: bool


def listed_runs(listing: RunListing) -> dict[RunKey, EgressInfo | IngressInfo]:
    """Return the listed runs that can still be running, by (meter, id of the run)."""
    listed: dict[RunKey, EgressInfo | IngressInfo] = {}
    for egress_id, info in (listing.egresses or {}).items():
        if info.started_at and not info.ended_at and (not info.room_id or info.room_id in listing.room_sids):
            listed["egress", egress_id] = info
    for ingress in (listing.ingresses or {}).values():
        if ingress.state is not None and ingress.state.started_at and not ingress.state.ended_at:
            listed["ingress", ingress_run_id(ingress)] = ingress
    return listed


def decide_runs(
    found: Findings,
    listing: RunListing,
    known: Mapping[RunKey, KnownRun],
    absences: Mapping[tuple[str, str], Absence],
) -> dict[RunKey, int]:
    """Add the corrections to ``found`` and return when each open run was listed (unix ms)."""
    listed, confirmed = listed_runs(listing), dict[RunKey, int]()
    failed = {meter for meter, rows in (("egress", listing.egresses), ("ingress", listing.ingresses)) if rows is None}
    for key, entry in known.items():
        if not entry.is_open:
            continue
        absence_key = (":".join(key), "")
        started_ms = entry.run.started_ms or 0
        if key[0] in failed:
            if absence_key in absences:
                found.absences[absence_key] = absences[absence_key]
        elif key in listed:
            confirmed[key] = listing.started_ms
        elif started_ms < listing.started_ms:
            absence = absences.get(absence_key) or Absence(listing.started_ms, entry.confirmed_ms)
            if listing.started_ms - absence.since_ms < GRACE_MS:
                found.absences[absence_key] = absence
            else:
                found.events.append(_gone(entry.run, absence))
                found.closed += 1
    for key, info in listed.items():
        if key not in known and _started_ms(info) <= listing.started_ms - SETTLE_MS:
            found.events.append(_seen(info, key[1], listing.started_ms))
            found.opened += 1
    return confirmed


def _started_ms(info: EgressInfo | IngressInfo) -> int:
    if isinstance(info, EgressInfo):
        return info.started_at // _NS_PER_MS
    return info.state.started_at // _NS_PER_MS if info.state is not None else 0


def _seen(info: EgressInfo | IngressInfo, run_id: str, at_ms: int) -> OwnEvent:
    is_egress = isinstance(info, EgressInfo)
    name = EGRESS_SEEN if is_egress else INGRESS_SEEN
    return OwnEvent(
        event=name,
        id=f"{name}:{run_id}:{at_ms}",
        created_at=at_ms // 1000,
        egress_info=info if isinstance(info, EgressInfo) else None,
        ingress_info=info if isinstance(info, IngressInfo) else None,
        relay=Reconciled(seen_ms=at_ms),
    )


def _gone(run: MediaRun, absence: Absence) -> OwnEvent:
    name = EGRESS_GONE if run.meter == "egress" else INGRESS_GONE
    room = "" if run.project_id is None or run.mode is None else livekit_room(run.project_id, run.mode, run.room or "")
    ingress_id, _, resource_id = run.id.partition("/")
    return OwnEvent(
        event=name,
        id=f"{name}:{run.id}:{absence.since_ms}",
        created_at=absence.since_ms // 1000,
        egress_info=EgressInfo(egress_id=run.id, room_name=room) if run.meter == "egress" else None,
        ingress_info=None
        if run.meter == "egress"
        else IngressInfo(ingress_id=ingress_id, room_name=room, state=IngressState(resource_id=resource_id)),
        relay=Reconciled(seen_ms=absence.seen_ms or 0, gone_ms=absence.since_ms),
    )
