"""`relay reconcile`: compare the meter with LiveKit once, now."""

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

# A pass takes seconds. A worker's pass that takes longer than this is stuck.
WAIT_S = 60.0
_POLL_S = 0.5


class AlreadyReconciling(RelayError):
    """A worker's own pass did not end in time."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"a worker has been reconciling for over {wait_s:.0f} s; read its log")


class Change(Wire):
    """One correction. ``event`` is the name under which it is stored among the events."""

    event: str
    project_id: str
    mode: str
    room: str
    identity: str
    sid: str
    track_sid: str = ""


class Result(Wire):
    """The counts and the changes of one pass. ``duration_ms`` is the time of the whole pass."""

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


async def run_once(settings: Settings, wait_s: float = WAIT_S) -> Result:
    """Run one pass, after a worker's pass that is running has ended.

    Raises a ``LiveKitError`` or ``AlreadyReconciling``.
    """
    clock = SystemClock()
    service = RoomService(settings.livekit_api_url, settings.livekit_api_key, settings.livekit_api_secret, clock)
    async with create_pool(settings.database, "relay cli", max_size=3) as pool, pool.acquire() as conn, service:
        for _ in range(int(wait_s / _POLL_S)):
            async with periodic_queries.job_lock(conn, JOB) as held:
                if held:
                    return _result(await run_pass(pool, service, clock))
            await asyncio.sleep(_POLL_S)
    raise AlreadyReconciling(wait_s)


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


_CHANGE_TEXTS = {
    "relay_participant_seen": "is connected; now counted as LiveKit reports it",
    "relay_participant_gone": "has left; counted up to the last confirmation",
    "relay_track_gone": "no longer publishes this track",
    "relay_egress_seen": "egress is running; now counted as LiveKit reports it",
    "relay_egress_gone": "egress has ended; counted up to the last confirmation",
    "relay_ingress_seen": "ingress is running; now counted as LiveKit reports it",
    "relay_ingress_gone": "ingress has ended; counted up to the last confirmation",
}


def describe(result: Result) -> list[str]:
    """Format the result as lines of text."""
    lines = [
        f"{change.project_id} {change.mode} {change.room}: {change.identity or change.sid} "
        + (f"({change.track_sid}) " if change.track_sid else "")
        + _CHANGE_TEXTS.get(change.event, change.event)
        for change in result.changes
    ]
    lines.append(
        f"{result.rooms} rooms and {result.participants} participants in {result.duration_ms / 1000:.1f} s:"
        f" {result.confirmed} confirmed, {result.opened} opened, {result.corrected} corrected, {result.closed} closed"
    )
    if result.rooms_failed:
        lines.append(f"{result.rooms_failed} rooms could not be checked; nothing was changed in them")
    if result.unproven:
        lines.append(
            f"{result.unproven} participants are listed by LiveKit, but no node has them; they are no longer counted"
        )
    return lines


@command("reconcile", "Compare the meter with LiveKit once and correct it.", json=True)
def reconcile(invocation: Invocation) -> int:
    database_of(invocation)  # if no Relay runs here, this message is clearer than the one of the settings
    result = asyncio.run(run_once(settings_of(invocation)))
    if invocation.json:
        print_json(result)
    else:
        print("\n".join(describe(result)))
    return 0
