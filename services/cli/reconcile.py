"""`relay reconcile`: one pass against LiveKit, now."""

import asyncio

from services.cli.instance import database_of, settings_of
from services.cli.options import Invocation, command
from services.cli.output import print_json
from shared.errors import RelayError
from shared.infra.clock import SystemClock
from shared.infra.ids import parse_livekit_room
from shared.infra.postgres.pool import create_pool
from shared.infra.settings import Settings
from shared.ledger.reconcile import JOB, PassReport
from shared.ledger.reconcile import reconcile as run_pass
from shared.livekit.room_service import RoomService
from shared.models.livekit_event import LiveKitEvent
from shared.models.wire import Wire
from shared.operations.queries import periodic as periodic_queries

# A pass takes seconds; a worker's own is over by then, or it is stuck.
WAIT_S = 60.0
_POLL_S = 0.5


class AlreadyReconciling(RelayError):
    """A worker's pass has been under way for too long."""

    def __init__(self) -> None:
        super().__init__(f"a worker has been reconciling for over {WAIT_S:.0f} s; look at its log")


class Change(Wire):
    """Something that was put right. ``event``: as it is kept among the events."""

    event: str
    project_id: str
    mode: str
    room: str
    identity: str
    sid: str
    track_sid: str = ""


class Result(Wire):
    """What the pass found, in numbers, and each change. ``duration_ms``: of the whole pass."""

    duration_ms: int
    rooms: int
    rooms_failed: int
    participants: int
    confirmed: int
    unproven: int
    opened: int
    corrected: int
    closed: int
    changes: list[Change]


async def run_once(settings: Settings) -> Result:
    """Waits for a worker's pass that is under way. Raises a ``LiveKitError`` or ``AlreadyReconciling``."""
    clock = SystemClock()
    service = RoomService(settings.livekit_api_url, settings.livekit_api_key, settings.livekit_api_secret, clock)
    async with create_pool(settings.database, "relay cli", max_size=3) as pool, pool.acquire() as conn, service:
        for _ in range(int(WAIT_S / _POLL_S)):
            async with periodic_queries.job_lock(conn, JOB) as held:
                if held:
                    return _result(await run_pass(pool, service, clock))
            await asyncio.sleep(_POLL_S)
    raise AlreadyReconciling


def _result(report: PassReport) -> Result:
    done = report.done
    return Result(
        duration_ms=(done.finished_ms or done.started_ms) - done.started_ms,
        rooms=done.rooms,
        rooms_failed=done.rooms_failed,
        participants=done.participants,
        confirmed=done.confirmed,
        unproven=done.unproven,
        opened=done.opened,
        corrected=done.corrected,
        closed=done.closed,
        changes=[_change(event) for event in report.events],
    )


def _change(event: LiveKitEvent) -> Change:
    room = event.room.name if event.room else ""
    sid = event.participant.sid if event.participant else ""
    if event.egress_info is not None:
        room, sid = event.egress_info.room_name, event.egress_info.egress_id
    if event.ingress_info is not None:
        room, sid = event.ingress_info.room_name, event.ingress_info.ingress_id
    owner = parse_livekit_room(room)
    return Change(
        event=event.event,
        project_id=owner.project_id if owner else "",
        mode=owner.mode if owner else "",
        room=owner.display if owner else room,
        identity=event.participant.identity if event.participant else "",
        sid=sid,
        track_sid=event.track.sid if event.track else "",
    )


_SAYS = {
    "relay_participant_seen": "is there; now counted as LiveKit says",
    "relay_participant_gone": "is gone; counted up to the last confirmation",
    "relay_track_gone": "publishes this track no more",
    "relay_egress_seen": "egress runs; now counted",
    "relay_egress_gone": "egress is over; counted up to the last confirmation",
    "relay_ingress_seen": "ingress runs; now counted",
    "relay_ingress_gone": "ingress is over; counted up to the last confirmation",
}


def describe(result: Result) -> list[str]:
    """The result in lines for a reader."""
    lines = [
        f"{change.project_id} {change.mode} {change.room}: {change.identity or change.sid} "
        + (f"({change.track_sid}) " if change.track_sid else "")
        + _SAYS.get(change.event, change.event)
        for change in result.changes
    ]
    lines.append(
        f"{result.rooms} rooms and {result.participants} participants in {result.duration_ms / 1000:.1f} s:"
        f" {result.confirmed} confirmed, {result.opened} opened, {result.corrected} corrected, {result.closed} closed"
    )
    if result.rooms_failed:
        lines.append(f"{result.rooms_failed} rooms could not be asked; nothing was concluded about them")
    if result.unproven:
        lines.append(f"{result.unproven} participants are listed, but no node answers for them; they stopped counting")
    return lines


@command("reconcile", "Compare the meter with LiveKit once and correct it.", json=True)
def reconcile(invocation: Invocation) -> int:
    database_of(invocation)  # its message is clearer than that of the settings if no Relay runs here
    result = asyncio.run(run_once(settings_of(invocation)))
    if invocation.json:
        print_json(result)
    else:
        print("\n".join(describe(result)))
    return 0
