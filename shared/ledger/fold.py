"""Fold a batch of events in one transaction.

The order of the steps makes the result exact. First the events are stored, and those with a known id are skipped. Then the
affected rooms and sessions are locked, loaded and merged. Then the rollups change by the difference between the bills before
and after. Repeating a batch changes nothing, because all its ids are known.
"""

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256

import asyncpg
import msgspec

from shared.errors import ConcurrentFold, UnfoldableEvent
from shared.events.queries import events as event_queries
from shared.events.queries.events import EventKey, EventRow, event_row
from shared.infra import metrics
from shared.infra.postgres.pool import Connection
from shared.ledger.bill import fold_runs, fold_sessions
from shared.ledger.room_succession import last_sightings, succeeded_rooms
from shared.metering.observe import Observation, observe
from shared.metering.observe_runs import ingress_run_id
from shared.metering.state import Room, merged_rooms
from shared.models.livekit_event import OWN_PREFIX, LiveKitEvent, decode_event, decode_own_event
from shared.models.received import Received
from shared.projects import queries as project_queries

log = logging.getLogger("relay.worker")

# Errors of an event that Postgres cannot store: text that it cannot encode, a number or a key that is too large.
NOT_STORABLE = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    UnicodeError,
)
# A defect in Relay that one event triggers, or a stored state that cannot be decoded. It is logged and does not stop the other
# events. Connection errors are not included.
_DEFECT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, msgspec.MsgspecError)

# Prefixes of ids that Relay assigns: to events that came without an id, and to its own events.
_HASHED = "sha256:"
_OWN_IDS = (OWN_PREFIX, _HASHED)

# Attempts for a batch that conflicts with another transaction or with a partition that was created meanwhile.
ATTEMPTS = 5


class FoldResult(msgspec.Struct):
    """The result of a batch, in events."""

    folded: int = 0
    known: int = 0
    unattributed: int = 0
    set_aside: int = 0


class _Read(msgspec.Struct, gc=False):
    event: LiveKitEvent
    received: Received
    observation: Observation

    def row(self, key: EventKey) -> EventRow:
        seen = self.observation
        return event_row(self.event, key, seen.owner, seen.room_name, self.received)


async def fold_batch(conn: Connection, partition: int, batch: Sequence[Received], *, own: bool = False) -> FoldResult:
    """Fold events of one partition and commit, or join the transaction of the caller.

    An event that cannot be used is set aside with its reason. ``own``: the events were made by reconciliation, not received
    from LiveKit.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            async with conn.transaction():
                await event_queries.lock_partition(conn, partition)
                return await fold_in_transaction(conn, partition, batch, own=own)
        except (ConcurrentFold, asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            if attempt == ATTEMPTS:
                raise
        except (*NOT_STORABLE, *_DEFECT) as error:
            if isinstance(error, asyncpg.CheckViolationError) and attempt < ATTEMPTS:
                # The partition of a day was created while its events went to the default partition. Inserting again works.
                continue
            # Halving the batch finds the failing event and lets the others through.
            if len(batch) == 1:
                async with conn.transaction():
                    await _set_aside(conn, batch[0], *_reason(error), own)
                return FoldResult(set_aside=1)
            middle = len(batch) // 2
            first = await fold_batch(conn, partition, batch[:middle], own=own)
            return _sum(first, await fold_batch(conn, partition, batch[middle:], own=own))


async def _set_aside(conn: Connection, received: Received, reason: str, detail: str, own: bool) -> None:
    """Set an event aside. Relay's own events are set aside once for each subject: every pass repeats them."""
    await event_queries.set_aside(conn, received, reason, detail, _about(received.body) if own else None)


def _about(body: bytes) -> bytes:
    """Return the subject of one of Relay's own events: its name and ids, without its time."""
    event = decode_own_event(body)
    return msgspec.json.encode(
        (
            event.event,
            event.participant.sid if event.participant is not None else None,
            event.track.sid if event.track is not None else None,
            event.egress_info.egress_id if event.egress_info is not None else None,
            ingress_run_id(event.ingress_info) if event.ingress_info is not None else None,
        )
    )


def _reason(error: Exception) -> tuple[str, str]:
    """Return reason and detail for an event that is set aside because folding it failed."""
    if isinstance(error, NOT_STORABLE):
        return "not_storable", str(error)
    log.error("an event is set aside: folding it failed", exc_info=error)
    return "not_foldable", f"{type(error).__name__}: {error}"


def _sum(a: FoldResult, b: FoldResult) -> FoldResult:
    return FoldResult(
        a.folded + b.folded, a.known + b.known, a.unattributed + b.unattributed, a.set_aside + b.set_aside
    )


async def fold_in_transaction(
    conn: Connection, partition: int, batch: Sequence[Received], *, own: bool = False
) -> FoldResult:
    """Fold a batch inside the caller's transaction, which must hold the partition's lock."""
    result = FoldResult()
    reads: dict[EventKey, _Read] = {}
    for received in batch:
        try:
            key, read = _read(received, own)
        except UnfoldableEvent as error:
            await _set_aside(conn, received, error.reason, str(error), own)
            result.set_aside += 1
            continue
        reads.setdefault(key, read)
    result.known = len(batch) - result.set_aside
    now_ms = max((received.received_ms for received in batch), default=0)
    if reads:
        await _attribute(conn, reads)
        created_ms, _ = newest = max(reads)
        metrics.livekit_delay_seconds.observe(max(0, reads[newest].received.received_ms - created_ms) / 1000)
        new = await _insert_new(conn, reads)
        result.known -= len(new)
        result.folded = len(new)
        result.unattributed = sum(1 for seen in new if seen.owner is None and seen.room_name)
        rooms = list(merged_rooms(seen.room for seen in new if seen.room is not None).values())
        succeeded = await succeeded_rooms(conn, rooms)
        sightings = await _keep_sightings(conn, succeeded, now_ms)
        sessions = [seen.session for seen in (*new, *sightings) if seen.session is not None]
        media = await fold_runs(conn, [seen.run for seen in new if seen.run is not None])
        await fold_sessions(conn, sessions, [*rooms, *succeeded], now_ms, media)
    if batch:
        await event_queries.record_progress(conn, partition, now_ms)
    return result


async def _insert_new(conn: Connection, reads: Mapping[EventKey, _Read]) -> list[Observation]:
    """Store events and return the observations of those that were not stored before."""
    new_keys = await event_queries.insert_events(conn, {key: read.row(key) for key, read in reads.items()})
    return [read.observation for key, read in reads.items() if key in new_keys]


async def _keep_sightings(conn: Connection, succeeded: Sequence[Room], now_ms: int) -> list[Observation]:
    """Store, as events, when sessions were last confirmed that end because a newer room followed."""
    bodies = await last_sightings(conn, succeeded)
    # If the next room's creation time is implausibly far in the future, the sighting cannot be read and is left out.
    reads = dict(read for body in bodies if (read := _readable(Received(now_ms, body))) is not None)
    return await _insert_new(conn, reads) if reads else []


def _readable(received: Received) -> tuple[EventKey, _Read] | None:
    try:
        return _read(received, own=True)
    except UnfoldableEvent:
        return None


def _read(received: Received, own: bool) -> tuple[EventKey, _Read]:
    try:
        event = decode_own_event(received.body) if own else decode_event(received.body)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise UnfoldableEvent("not_an_event", str(error)) from None
    # A text that starts with a prefix is never less than the prefix. Comparing first takes a tenth of the time of startswith.
    if not own and (
        (event.event >= OWN_PREFIX and event.event.startswith(OWN_PREFIX))
        or (event.id >= OWN_PREFIX and event.id.startswith(_OWN_IDS))
    ):
        raise UnfoldableEvent("reserved_name", f"names and ids that start with {OWN_PREFIX} are Relay's own")
    seen = observe(event, received.received_ms)
    event_id = event.id or _HASHED + sha256(received.body).hexdigest()
    return (seen.created_ms, event_id), _Read(event, received, seen)


async def _attribute(conn: Connection, reads: Mapping[EventKey, _Read]) -> None:
    """Remove the owner from events whose room name has Relay's form but names no existing project."""
    owners = {read.observation.owner for read in reads.values()}
    claimed = {owner.project_id for owner in owners if owner is not None}
    known = await project_queries.existing_projects(conn, sorted(claimed)) if claimed else set()
    if claimed == known:
        return
    for read in reads.values():
        seen = read.observation
        if seen.owner is not None and seen.owner.project_id not in known:
            read.observation = Observation(seen.created_ms, None, seen.room_name, None, None)
