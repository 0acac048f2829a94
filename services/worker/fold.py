"""Folds a batch of events in one transaction.

The order of the steps is what makes it exact: events are kept first (a known id drops out), then the touched rooms and
sessions are locked, loaded and merged, then the rollups change by the difference between what the sessions cost before and
after. Repeating a batch finds all its ids known and changes nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import asyncpg
import msgspec

from shared.errors import UnfoldableEvent
from shared.metering.observe import Observation, observe
from shared.metering.state import Room, Session, merge_room, merge_session
from shared.metering.usage import Usage, interval_of, is_metered, kind_of, usage_of
from shared.models.livekit_event import LiveKitEvent, decode_event
from shared.postgres import Connection
from shared.queries import events as event_queries
from shared.queries import projects as project_queries
from shared.queries import sessions as session_queries
from shared.queries import usage as usage_queries
from shared.queries.events import EventRow, Received
from shared.queries.usage import RollupKey, Scope


class ConcurrentFold(Exception):
    """Another transaction stored one of our sessions or rooms first; the batch must be repeated from the start."""


class FoldResult(msgspec.Struct):
    """What a batch did, in events."""

    folded: int = 0
    known: int = 0
    unattributed: int = 0
    set_aside: int = 0


class _Read(msgspec.Struct):
    row: EventRow
    observation: Observation


async def fold_batch(conn: Connection, partition: int, batch: Sequence[Received]) -> FoldResult:
    """Folds events of one partition and commits. An event that cannot be used is set aside with its reason."""
    for attempt in range(5):
        try:
            async with conn.transaction():
                await event_queries.lock_partition(conn, partition)
                return await fold_in_transaction(conn, partition, batch)
        except (ConcurrentFold, asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            if attempt == 4:
                raise
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeError) as error:
            # Something in one of the events that Postgres will not hold. Halving finds it without stopping the others.
            if len(batch) == 1:
                async with conn.transaction():
                    await event_queries.set_aside(conn, batch[0], "not_storable", str(error))
                return FoldResult(set_aside=1)
            middle = len(batch) // 2
            first = await fold_batch(conn, partition, batch[:middle])
            return _sum(first, await fold_batch(conn, partition, batch[middle:]))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _sum(a: FoldResult, b: FoldResult) -> FoldResult:
    return FoldResult(
        a.folded + b.folded, a.known + b.known, a.unattributed + b.unattributed, a.set_aside + b.set_aside
    )


async def fold_in_transaction(conn: Connection, partition: int, batch: Sequence[Received]) -> FoldResult:
    """The same inside the caller's transaction, which holds the partition's lock."""
    result = FoldResult()
    reads: dict[str, _Read] = {}
    for received in batch:
        try:
            read = _read(received)
        except UnfoldableEvent as error:
            await event_queries.set_aside(conn, received, error.reason, str(error))
            result.set_aside += 1
            continue
        reads.setdefault(read.row.id, read)
    result.known = len(batch) - result.set_aside
    if reads:
        await _attribute(conn, list(reads.values()))
        new_ids = await event_queries.insert_events(conn, [read.row for read in reads.values()])
        new = [reads[event_id].observation for event_id in reads if event_id in new_ids]
        result.known -= len(new_ids)
        result.folded = len(new)
        result.unattributed = sum(1 for seen in new if seen.owner is None and seen.room_name)
        await _apply(conn, [seen for seen in new if seen.session is not None or seen.room is not None])
    if batch:
        await event_queries.record_progress(conn, partition, max(received.received_ms for received in batch))
    return result


def _read(received: Received) -> _Read:
    try:
        event = decode_event(received.body)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as error:
        raise UnfoldableEvent("not_an_event", str(error)) from None
    observation = observe(event, received.received_ms)
    return _Read(_row(event, observation, received), observation)


def _row(event: LiveKitEvent, seen: Observation, received: Received) -> EventRow:
    return EventRow(
        created_ms=seen.created_ms,
        id=event.id or "sha256:" + sha256(received.body).hexdigest(),
        received_ms=received.received_ms,
        name=event.event,
        project_id=seen.owner.project_id if seen.owner else None,
        mode=seen.owner.mode if seen.owner else None,
        room=seen.owner.display if seen.owner else seen.room_name or None,
        participant_sid=(event.participant.sid or None) if event.participant else None,
        body=received.body,
    )


async def _attribute(conn: Connection, reads: Sequence[_Read]) -> None:
    """Takes away the owner of events whose room only looks like one of ours: no such project exists."""
    claimed = {read.observation.owner.project_id for read in reads if read.observation.owner is not None}
    known = await project_queries.existing_projects(conn, sorted(claimed)) if claimed else set()
    for read in reads:
        owner = read.observation.owner
        if owner is not None and owner.project_id not in known:
            read.observation = read.observation._replace(owner=None, session=None, room=None)
            read.row.project_id = read.row.mode = None
            read.row.room = read.observation.room_name


async def _apply(conn: Connection, seen: Sequence[Observation]) -> None:
    rooms: dict[str, Room] = {}
    sessions: dict[str, Session] = {}
    for one in seen:
        if one.room is not None:
            known_room = rooms.get(one.room.sid)
            rooms[one.room.sid] = one.room if known_room is None else merge_room(known_room, one.room)
        if one.session is not None:
            known = sessions.get(one.session.sid)
            sessions[one.session.sid] = one.session if known is None else merge_session(known, one.session)
    if not rooms and not sessions:
        return
    finished = sorted(room.sid for room in rooms.values() if room.finished_ms)
    before = await session_queries.lock_sessions(conn, sorted(sessions), finished)
    after = dict(before)
    for sid, session in sessions.items():
        after[sid] = merge_session(before[sid], session) if sid in before else session
    room_sids = {s.room_sid for s in (*after.values(), *before.values()) if s.room_sid}
    rooms_before = await session_queries.lock_rooms(conn, sorted(room_sids | set(rooms)))
    rooms_after = dict(rooms_before)
    for sid, room in rooms.items():
        rooms_after[sid] = merge_room(rooms_before[sid], room) if sid in rooms_before else room
    await _store(conn, before, after, rooms_before, rooms_after)
    await _bill(conn, before, after, rooms_before, rooms_after)


def _room_of(session: Session, rooms: dict[str, Room]) -> Room | None:
    return rooms.get(session.room_sid) if session.room_sid is not None else None


async def _store(
    conn: Connection,
    before: dict[str, Session],
    after: dict[str, Session],
    rooms_before: dict[str, Room],
    rooms_after: dict[str, Room],
) -> None:
    new_rooms = [room for sid, room in sorted(rooms_after.items()) if sid not in rooms_before]
    if new_rooms and await session_queries.insert_rooms(conn, new_rooms) < len(new_rooms):
        raise ConcurrentFold
    changed_rooms = [room for sid, room in sorted(rooms_after.items()) if rooms_before.get(sid, room) != room]
    if changed_rooms:
        await session_queries.update_rooms(conn, changed_rooms)
    new = [(session, _room_of(session, rooms_after)) for sid, session in sorted(after.items()) if sid not in before]
    if new and await session_queries.insert_sessions(conn, new) < len(new):
        raise ConcurrentFold
    changed = [
        (session, _room_of(session, rooms_after))
        for sid, session in sorted(after.items())
        if sid in before
        and (session != before[sid] or _room_of(session, rooms_after) != _room_of(before[sid], rooms_before))
    ]
    if changed:
        await session_queries.update_sessions(conn, changed)


async def _bill(
    conn: Connection,
    before: dict[str, Session],
    after: dict[str, Session],
    rooms_before: dict[str, Room],
    rooms_after: dict[str, Room],
) -> None:
    """Adds usage_of(after) - usage_of(before) to the rollups and recomputes the peaks of the minutes that changed."""
    changes: defaultdict[RollupKey, list[int]] = defaultdict(lambda: [0, 0])
    edges: set[tuple[Scope, int]] = set()
    for states, rooms, sign in ((before, rooms_before, -1), (after, rooms_after, 1)):
        for session in states.values():
            for key, usage in _usage_rows(session, _room_of(session, rooms)):
                changes[key][0] += sign * usage.participant_ms
                changes[key][1] += sign * usage.video_ms
    for sid, session in after.items():
        new = _edges(session, _room_of(session, rooms_after))
        old = _edges(before[sid], _room_of(before[sid], rooms_before)) if sid in before else ()
        if new != old:
            edges.update(new, old)
    rollups = {key: Usage(*change) for key, change in changes.items() if any(change)}
    scopes = {Scope(key.project_id, key.mode) for key in rollups} | {scope for scope, _ in edges}
    if not scopes:
        return
    await usage_queries.lock_scopes(conn, scopes)
    if rollups:
        await usage_queries.add_usage(conn, rollups)
    if edges:
        await usage_queries.recompute_peaks(conn, edges)


def _usage_rows(session: Session, room: Room | None) -> list[tuple[RollupKey, Usage]]:
    if session.project_id is None or session.mode is None:
        return []
    kind = kind_of(session)
    return [
        (RollupKey(session.project_id, session.mode, hour, kind), usage)
        for hour, usage in usage_of(session, room).items()
    ]


def _edges(session: Session, room: Room | None) -> tuple[tuple[Scope, int], ...]:
    """Where a session's metered time starts and ends."""
    if session.project_id is None or session.mode is None or not is_metered(session):
        return ()
    interval = interval_of(session, room)
    if interval is None:
        return ()
    scope = Scope(session.project_id, session.mode)
    return tuple((scope, at) for at in (interval.start_ms, interval.end_ms) if at is not None)
