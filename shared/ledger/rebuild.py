"""Repair the differences that an audit found.

Each difference is checked again under the locks of the fold, so a repair does not undo later events. A state is replaced only
if it has not changed since the audit. Rollups are recomputed from the current states.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from operator import add

import asyncpg
import msgspec

from shared.errors import ConcurrentFold
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.postgres.pool import Connection
from shared.ledger.audit_rollups import NO_RUNS
from shared.ledger.bill import SessionChange, apply_change
from shared.ledger.day_sums import DaySums, sums_by_day
from shared.ledger.difference import Found, State
from shared.ledger.proof import Checked
from shared.ledger.queries import audit as queries
from shared.ledger.queries import audit_rollups
from shared.ledger.queries import media as media_queries
from shared.ledger.queries import sessions as session_queries
from shared.ledger.queries import usage as usage_queries
from shared.ledger.rollups import RunSums, pieces_of
from shared.ledger.rows import run_row, session_row
from shared.ledger.verify import verify_rollups, verify_states
from shared.metering.run_usage import RunUsage
from shared.metering.state import MediaRun, Room, Session
from shared.metering.usage import bill_of
from shared.models.scope import AuditScope, DayRange, Scope
from shared.models.usage.rollups import DayDifference, MediaKey
from shared.usage.queries import groups as group_queries

# States that are repaired in one transaction. The fold waits for their locks.
_BATCH = 200


async def rebuild(
    reader: Connection,
    writer: Connection,
    span: DayRange | None,
    checked: Checked,
    now_ms: int,
    progress: Callable[[AuditScope], None],
) -> AsyncIterator[Found]:
    """Repair everything that ``verify`` finds, and yield it.

    The states of a scope are repaired first, each in its own transaction. Then its rollups are recomputed from them.
    ``reader`` reads on a snapshot, ``writer`` writes.
    """
    for scope in await queries.scopes(reader):
        for audit, mend in ((verify_states, _mend_states), (verify_rollups, _mend_rollups)):
            batch: list[Found] = []
            async with queries.snapshot(reader):
                async for found in audit(reader, scope, span, checked):
                    yield found
                    batch.append(found)
                    if len(batch) == _BATCH:
                        await mend(writer, batch, now_ms)
                        batch = []
            await mend(writer, batch, now_ms)
        progress(scope)


async def _mend_states(conn: Connection, batch: Sequence[Found], now_ms: int) -> None:
    for found in batch:
        try:
            async with conn.transaction():
                await _mend_state(conn, found, now_ms)
        except (ConcurrentFold, asyncpg.DeadlockDetectedError):
            continue  # the fold stored it at the same time; the next audit checks the result
        except msgspec.MsgspecError:
            # The stored state cannot be decoded. The state that its events prove replaces it, and its sums are corrected next.
            # Without events it stays, because there is nothing to replace it with.
            if found.proven is not None and found.proven != found.stored:
                with suppress(ConcurrentFold):
                    async with conn.transaction():
                        await _replace(conn, found.proven)


async def _mend_state(conn: Connection, found: Found, now_ms: int) -> None:
    states = (found.stored, found.proven)
    if any(isinstance(state, Room) for state in states):
        await _mend_room(conn, found, now_ms)
    elif any(isinstance(state, MediaRun) for state in states):
        await _mend_run(conn, found)
    else:
        await _mend_session(conn, found, now_ms)


async def _mend_session(conn: Connection, found: Found, now_ms: int) -> None:
    stored, proven = found.stored, found.proven
    assert not isinstance(stored, Room | MediaRun)  # noqa: S101 - as the table says
    assert not isinstance(proven, Room | MediaRun)  # noqa: S101
    sid = found.sid or found.difference.key
    before = await session_queries.lock_sessions(conn, [sid], [])
    room_sids = {state.room_sid for state in (*before.values(), proven) if state is not None and state.room_sid}
    rooms = await session_queries.lock_rooms(conn, sorted(room_sids))
    if found.sid:
        rows = [
            session_row(session, bill_of(session, rooms.get(session.room_sid or ""))) for session in before.values()
        ]
        await session_queries.update_sessions(conn, rows)
    elif before.get(sid) == stored:
        after = {sid: proven} if proven is not None else {}
        if proven is None:
            await session_queries.delete_sessions(conn, [sid])
        await apply_change(conn, SessionChange(before, after, rooms, rooms), now_ms)


async def _replace(conn: Connection, proven: State) -> None:
    """Replace a row by its proven state. No stored column is used, because they may be wrong too."""
    if isinstance(proven, MediaRun):
        await media_queries.delete_run(conn, proven.meter, proven.id)
        await media_queries.insert_runs(conn, [run_row(proven)])
        return
    assert isinstance(proven, Session)  # noqa: S101 - a room has only columns, no encoded state
    room_sid = proven.room_sid or ""
    rooms = await session_queries.lock_rooms(conn, [room_sid])
    await session_queries.delete_sessions(conn, [proven.sid])
    await session_queries.insert_sessions(conn, [session_row(proven, bill_of(proven, rooms.get(room_sid)))])


async def _mend_room(conn: Connection, found: Found, now_ms: int) -> None:
    stored, proven = found.stored, found.proven
    sid = found.difference.key
    sessions: dict[str, Session] = await session_queries.lock_sessions(conn, [], [sid])
    rooms = await session_queries.lock_rooms(conn, [sid])
    if rooms.get(sid) != stored:
        return
    after: dict[str, Room] = {}
    if isinstance(proven, Room):
        after[sid] = proven
    else:
        await session_queries.delete_rooms(conn, [sid])
    await apply_change(conn, SessionChange(sessions, sessions, rooms, after), now_ms)
    rows = [session_row(session, bill_of(session, after.get(sid))) for session in sessions.values()]
    await session_queries.update_sessions(conn, rows)


async def _mend_run(conn: Connection, found: Found) -> None:
    run = found.proven if isinstance(found.proven, MediaRun) else found.stored
    assert isinstance(run, MediaRun)  # noqa: S101 - at least one of both exists
    stored = (await media_queries.lock_runs(conn, [(run.meter, run.id)])).get((run.meter, run.id))
    if stored != found.stored:
        return
    if stored is None:
        await media_queries.insert_runs(conn, [run_row(run)])
    elif found.proven is None:
        await media_queries.delete_run(conn, run.meter, run.id)
    else:
        await media_queries.update_runs(conn, [run_row(run)])
    proven = run if found.proven is not None else None
    changes = RunSums()
    for state, sign in ((stored, -1), (proven, 1)):
        if state is not None:
            changes.add(state, sign)
    if changes:
        await usage_queries.lock_scopes(conn, changes.scopes())
        for rows in pieces_of(changes.rows()):
            await media_queries.add_usage(conn, rows)


async def _mend_rollups(conn: Connection, batch: Sequence[Found], now_ms: int) -> None:
    """Recompute the rollups of days, media hours and peaks.

    The fold of a scope waits for one day at a time.
    """
    days: set[tuple[Scope, int]] = set()
    media_hours: set[tuple[Scope, int]] = set()
    instants: set[tuple[Scope, int]] = set()
    for found in batch:
        scope = found.scope.owned
        assert scope is not None  # noqa: S101 - only usage of a project has rollups
        if found.difference.table == "media_hour":
            media_hours.add((scope, found.at_ms))
        elif found.difference.table == "concurrency":
            instants.add((scope, found.at_ms))
        else:
            days.add((scope, floor_to(found.at_ms, DAY_MS)))
    for scope, day_ms in sorted(days):
        async with conn.transaction():
            await usage_queries.lock_scopes(conn, [scope])
            await _rebuild_day(conn, scope, day_ms, now_ms)
    for scope, hour_ms in sorted(media_hours):
        async with conn.transaction():
            await usage_queries.lock_scopes(conn, [scope])
            await _rebuild_media_hour(conn, scope, hour_ms)
    if instants:
        async with conn.transaction():
            await usage_queries.lock_scopes(conn, {scope for scope, _ in instants})
            await usage_queries.recompute_peaks(conn, instants, from_sessions=True)


async def _rebuild_day(conn: Connection, scope: Scope, day_ms: int, now_ms: int) -> None:
    sums = DaySums()
    async for day, found in sums_by_day(conn, scope, DayRange(day_ms, day_ms + DAY_MS)):
        if day == day_ms:
            sums = found
    stored = await audit_rollups.stored_hours(conn, scope, day_ms)
    await audit_rollups.clear_day(conn, scope, day_ms)
    if sums.hours:
        await usage_queries.add_usage(conn, sums.hours)
    if sums.groups:
        await group_queries.add_group_usage(conn, sums.groups)
    change = DayDifference(
        sum(usage.participant_ms for usage in sums.hours.values())
        - sum(usage.participant_ms for usage in stored.values()),
        sum(usage.video_ms for usage in sums.hours.values()) - sum(usage.video_ms for usage in stored.values()),
    )
    if any(change) and day_ms + DAY_MS <= now_ms:
        await usage_queries.record_late_changes(conn, {(scope, day_ms): change}, now_ms)


async def _rebuild_media_hour(conn: Connection, scope: Scope, hour_ms: int) -> None:
    sums: dict[MediaKey, RunUsage] = {}
    runs = RunSums()
    async for run in audit_rollups.runs_in_hour(conn, scope, hour_ms):
        runs.add(run)
    for key, usage in runs.rows():
        if key.hour == hour_ms:
            sums[key] = RunUsage(*map(add, sums.get(key, NO_RUNS), usage))
    await audit_rollups.clear_media_hour(conn, scope, hour_ms)
    if sums:
        await media_queries.add_usage(conn, sums)
