"""Merge observed states into the stored ones, and change the rollups by exactly the difference.

The invariant at every commit: the rollups are the sum of ``usage_of`` over all sessions that have ended, and of
``usage_of_run`` over all egresses and ingress runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import add

import msgspec

from shared.errors import ConcurrentFold
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.postgres.pool import Connection
from shared.ledger.queries import media as media_queries
from shared.ledger.queries import sessions as session_queries
from shared.ledger.queries import usage as usage_queries
from shared.ledger.rollups import LongStays, RunSums, group_rows, pieces_of, usage_rows
from shared.ledger.rows import run_row, session_row
from shared.metering.hours import Levels, Usage, days_of
from shared.metering.state import MediaRun, Room, Session, merge_room, merge_run, merge_session, merged_rooms
from shared.metering.usage import Bill, bill_of, bill_until, start_of
from shared.models.scope import Scope
from shared.models.usage.rollups import DayDifference, GroupKey, GroupUsage, RollupKey
from shared.usage.queries import groups as group_queries


class SessionChange(msgspec.Struct):
    """Sessions by sid before and after a change, with the rooms that may determine their ends."""

    before: Mapping[str, Session]
    after: Mapping[str, Session]
    rooms_before: Mapping[str, Room]
    rooms_after: Mapping[str, Room]

    def bills_before(self) -> dict[str, Bill]:
        """Return the bills before the change, by sid."""
        return _bills(self.before, self.rooms_before)

    def bills_after(self) -> dict[str, Bill]:
        return _bills(self.after, self.rooms_after)


def _bills(sessions: Mapping[str, Session], rooms: Mapping[str, Room]) -> dict[str, Bill]:
    return {sid: bill_of(session, _room(session, rooms)) for sid, session in sessions.items()}


def _room(session: Session, rooms: Mapping[str, Room]) -> Room | None:
    return rooms.get(session.room_sid) if session.room_sid is not None else None


async def fold_sessions(
    conn: Connection,
    observed_sessions: Iterable[Session],
    observed_rooms: Iterable[Room],
    now_ms: int,
    media: RunSums | None = None,
) -> None:
    """Merge observed states into the stored ones, and add the changes that ``fold_runs`` returned.

    ``now_ms``: the present (unix ms). A change of an earlier day is recorded as a late change.
    """
    rooms = merged_rooms(observed_rooms)
    sessions: dict[str, Session] = {}
    for session in observed_sessions:
        sessions[session.sid] = merge_session(sessions[session.sid], session) if session.sid in sessions else session
    if not rooms and not sessions:
        await apply_change(conn, SessionChange({}, {}, {}, {}), now_ms, media)
        return
    over = sorted(room.sid for room in rooms.values() if room.finished_ms or room.superseded_ms)
    before = await session_queries.lock_sessions(conn, sorted(sessions), over)
    after = dict(before)
    for sid, session in sessions.items():
        after[sid] = merge_session(before[sid], session) if sid in before else session
    room_sids = {s.room_sid for s in (*after.values(), *before.values()) if s.room_sid}
    rooms_before = await session_queries.lock_rooms(conn, sorted(room_sids | set(rooms)))
    rooms_after = dict(rooms_before)
    for sid, room in rooms.items():
        rooms_after[sid] = merge_room(rooms_before[sid], room) if sid in rooms_before else room
    await apply_change(conn, SessionChange(before, after, rooms_before, rooms_after), now_ms, media)


async def apply_change(conn: Connection, change: SessionChange, now_ms: int, media: RunSums | None = None) -> None:
    """Store the states of ``change`` and bill the difference.

    The sessions and rooms of ``before`` must be locked. Raises ``ConcurrentFold``.
    """
    bills_before, bills_after = change.bills_before(), change.bills_after()
    await _store(conn, change, bills_before, bills_after)
    await _bill(conn, change, bills_before, bills_after, now_ms, media)


async def _store(
    conn: Connection, change: SessionChange, bills_before: Mapping[str, Bill], bills_after: Mapping[str, Bill]
) -> None:
    before, rooms_before = change.before, change.rooms_before
    new_rooms = [room for sid, room in sorted(change.rooms_after.items()) if sid not in rooms_before]
    if new_rooms and await session_queries.insert_rooms(conn, new_rooms) < len(new_rooms):
        raise ConcurrentFold
    changed_rooms = [room for sid, room in sorted(change.rooms_after.items()) if rooms_before.get(sid, room) != room]
    if changed_rooms:
        await session_queries.update_rooms(conn, changed_rooms)
    states = sorted(change.after.items())
    new = [session_row(session, bills_after[sid]) for sid, session in states if sid not in before]
    if new:
        await session_queries.insert_sessions(conn, new)
    changed = [
        session_row(session, bills_after[sid])
        for sid, session in states
        if sid in before and (session != before[sid] or bills_after[sid] != bills_before[sid])
    ]
    if changed:
        await session_queries.update_sessions(conn, changed)


async def _bill(
    conn: Connection,
    change: SessionChange,
    bills_before: Mapping[str, Bill],
    bills_after: Mapping[str, Bill],
    now_ms: int,
    media: RunSums | None,
) -> None:
    """Add usage_of(after) - usage_of(before) to the rollups. Recompute the peaks of changed minutes.

    All scopes, those of ``media`` included, are locked at once and last: two folds that hold some scopes and wait for others
    would deadlock.
    """
    changes: defaultdict[RollupKey, list[int]] = defaultdict(lambda: [0] * len(Usage._fields))
    groups: defaultdict[GroupKey, list[int]] = defaultdict(lambda: [0] * (len(Usage._fields) + 1))
    stays = LongStays()
    edges: set[tuple[Scope, int]] = set()
    for sessions, bills, sign in ((change.before, bills_before, -1), (change.after, bills_after, 1)):
        for sid, session in sessions.items():
            bill = bills[sid]
            usage = bill.usage
            if not usage:
                continue
            for key, hour in usage_rows(session, usage):
                _add(changes[key], hour, sign)
            parts: Sequence[tuple[int, Usage]] = ()
            if bill.whole:
                parts, days = days_of(bill.whole)
                stays.add(session, bill.whole, days, sign)
            for group, (day, visits) in group_rows(session, usage, parts):
                sums = groups[group]
                _add(sums, day, sign)
                sums[-1] += sign * visits
    for sid in {**change.before, **change.after}:  # a repair may delete a session, which is then missing in ``after``
        old = _edges(change.before.get(sid), bills_before.get(sid))
        new = _edges(change.after.get(sid), bills_after.get(sid))
        if new != old:
            edges.update(new, old)
    rollups = {key: Usage(*amounts) for key, amounts in changes.items() if any(amounts)}
    by_group = {key: GroupUsage(Usage(*sums[:-1]), sums[-1]) for key, sums in groups.items() if any(sums)}
    late = _late_changes(change, now_ms)
    scopes = {Scope(key.project_id, key.mode) for key in rollups} | {scope for scope, _ in edges}
    scopes |= {scope for scope, _ in late} | {Scope(key.project_id, key.mode) for key in by_group}
    scopes |= stays.scopes()
    if media is not None:
        scopes |= media.scopes()
    if not scopes:
        return
    await usage_queries.lock_scopes(conn, scopes)
    if rollups:
        await usage_queries.add_usage(conn, rollups)
    if by_group:
        await group_queries.add_group_usage(conn, by_group)
    for hour_rows in pieces_of(stays.hour_rows()):
        await usage_queries.add_usage(conn, hour_rows)
    for day_rows in pieces_of(stays.group_rows()):
        await group_queries.add_group_usage(conn, day_rows)
    if edges:
        await usage_queries.recompute_peaks(conn, edges)
    if late:
        await usage_queries.record_late_changes(conn, late, now_ms)
    for media_rows in pieces_of(media.rows()) if media is not None else ():
        await media_queries.add_usage(conn, media_rows)


def _add(sums: list[int], amounts: Usage, sign: int) -> None:
    for index, amount in enumerate(amounts):
        if amount:
            sums[index] += sign * amount


def _edges(session: Session | None, bill: Bill | None) -> tuple[tuple[Scope, int], ...]:
    """Return the instants at which a session's metered time starts and ends."""
    if session is None or session.project_id is None or session.mode is None or bill is None or bill.interval is None:
        return ()
    scope, (start_ms, end_ms, _) = Scope(session.project_id, session.mode), bill.interval
    return ((scope, start_ms),) if end_ms is None else ((scope, start_ms), (scope, end_ms))


def _late_changes(change: SessionChange, now_ms: int) -> dict[tuple[Scope, int], DayDifference]:
    """Return the changes of the *displayed* usage of past days.

    An open session is displayed as if it lasted to the end of each past day. So ending it on a later day changes nothing.
    """
    today_ms = floor_to(now_ms, DAY_MS)
    late: defaultdict[tuple[Scope, int], list[int]] = defaultdict(lambda: [0, 0])
    levels: Levels[Scope] = Levels()
    states = (
        *((session, change.rooms_before, -1) for session in change.before.values()),
        *((session, change.rooms_after, 1) for session in change.after.values()),
    )
    for session, rooms, sign in states:
        start_ms = start_of(session)
        if start_ms is None or start_ms >= today_ms or session.project_id is None or session.mode is None:
            continue
        scope = Scope(session.project_id, session.mode)
        bill = bill_until(session, _room(session, rooms), now_ms, today_ms)
        for hour_ms, usage in bill.usage.items():
            _add_late(late[scope, floor_to(hour_ms, DAY_MS)], usage, sign)
        if bill.whole:
            parts, days = days_of(bill.whole)
            for day_ms, usage in parts:
                _add_late(late[scope, day_ms], usage, sign)
            for from_ms, to_ms, usage in days:
                levels.add(scope, from_ms, to_ms, DayDifference(usage.participant_ms, usage.video_ms), sign)
    for scope, day_ms, amounts in levels.rows(DAY_MS):
        late[scope, day_ms] = list(map(add, late[scope, day_ms], amounts))
    return {key: DayDifference(*amounts) for key, amounts in late.items() if any(amounts)}


def _add_late(sums: list[int], usage: Usage, sign: int) -> None:
    sums[0] += sign * usage.participant_ms
    sums[1] += sign * usage.video_ms


async def fold_runs(conn: Connection, observed: Sequence[MediaRun]) -> RunSums | None:
    """Merge observed egresses and runs of ingresses into the stored ones.

    Return the changes of their rollups. ``fold_sessions`` adds them.
    """
    runs: dict[tuple[str, str], MediaRun] = {}
    for run in observed:
        key = (run.meter, run.id)
        runs[key] = merge_run(runs[key], run) if key in runs else run
    if not runs:
        return None
    before = await media_queries.lock_runs(conn, sorted(runs))
    after = {key: merge_run(before[key], run) if key in before else run for key, run in sorted(runs.items())}
    new = [run_row(run) for key, run in after.items() if key not in before]
    if new and await media_queries.insert_runs(conn, new) < len(new):
        raise ConcurrentFold
    await media_queries.update_runs(conn, [run_row(run) for key, run in after.items() if before.get(key, run) != run])
    changes = RunSums()
    for states, sign in ((before, -1), (after, 1)):
        for run in states.values():
            changes.add(run, sign)
    return changes
