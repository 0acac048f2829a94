"""Audit states: each session, room and run must equal the fold of its stored events.

Events are stored for a limited time. If all events of a state are still stored, the state is proven: it must equal their fold.
If some may be gone, merging the stored events must not change the state. The times in the state decide which case holds. Every
event leaves a time in the state that is at most ``_SLACK_MS`` later than the event's own. So if all times of a state are after
the horizon, it had no earlier event.
"""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar
from zlib import crc32

import msgspec

from shared.errors import UnfoldableEvent
from shared.infra.postgres.pool import Connection
from shared.ledger.difference import Difference, Found, State, Table, differing, registers
from shared.ledger.queries import audit as queries
from shared.ledger.rows import run_columns, session_columns
from shared.metering.observe import Observation, observe
from shared.metering.state import MediaRun, Room, Session, merge_room, merge_run, merge_session
from shared.models.livekit_event import decode_kept_event
from shared.models.scope import AuditScope, DayRange
from shared.models.usage.audit import KeptEvent, StoredSession

T = TypeVar("T", Session, Room, MediaRun)
S = TypeVar("S")
# observe() takes a joining time up to 5 s after the event's own, and events are stamped in whole seconds.
_SLACK_MS = 10_000
# Runs held in memory at once.
_RUNS_AT_ONCE = 100_000


class Checked:
    """Counts the rows that an audit has read. ``unproven``: states older than the stored events."""

    def __init__(self) -> None:
        self.states = self.unproven = self.rollups = self.events = 0


def first_time_of(state: State) -> int | None:
    """Return the earliest time of a state (unix ms); None if it has none."""
    times: list[int | None]
    if isinstance(state, Session):
        times = [state.joined_ms, state.first_seen_ms, state.active_ms, state.left_ms, state.aborted_ms]
        times += [state.sighted_ms, state.gone_ms]
        for track in state.tracks.values():
            times += [track.published_ms, track.unpublished_ms, track.sighted_ms, track.gone_ms]
    elif isinstance(state, Room):
        times = [state.created_ms, *state.finished_ms, state.superseded_ms]
    else:
        times = [state.started_ms, state.ended_ms, state.sighted_ms, state.gone_ms]
    return min((at for at in times if at is not None), default=None)


def is_proven(state: State, horizon_ms: int | None) -> bool:
    """Return whether all events of a state are still stored. Events before ``horizon_ms`` may be gone."""
    if horizon_ms is None:
        return True
    first_ms = first_time_of(state)
    return first_ms is not None and first_ms - _SLACK_MS >= horizon_ms


def _observed(event: KeptEvent) -> Observation | None:
    try:
        return observe(decode_kept_event(event.body), event.received_ms)
    except (
        UnfoldableEvent,
        ValueError,
        OverflowError,
    ):  # it was folded when it arrived, so its row has been changed since
        return None


async def audit_sessions(
    conn: Connection, scope: AuditScope, span: DayRange | None, horizon_ms: int | None, checked: Checked
) -> AsyncIterator[Found]:
    """Compare sessions with their events, and their columns with their states."""
    events = queries.events_of_participants(conn, scope, span)
    proven = _folded(events, checked, lambda seen: seen.session, merge_session)
    stored = queries.sessions_by_sid(conn, scope, span)
    async for row, state in _joined(stored, lambda row: row.state.sid, proven, lambda session: session.sid):
        if row is not None:
            checked.states += 1
        found = _judge("session", scope, row.state if row else None, state, merge_session, horizon_ms, checked)
        if found is not None:
            yield found
        elif row is not None and (wrong := _wrong_columns(row)):
            yield Found(_difference("session", scope, row.state.sid, wrong), scope, sid=row.state.sid)


def _wrong_columns(row: StoredSession) -> dict[str, tuple[object, object]]:
    return differing(row.columns, session_columns(row.state, row.room))


async def audit_rooms(
    conn: Connection, scope: AuditScope, span: DayRange | None, horizon_ms: int | None, checked: Checked
) -> AsyncIterator[Found]:
    """Compare rooms with their events."""
    proven = _folded(queries.events_of_rooms(conn, scope, span), checked, lambda seen: seen.room, merge_room)
    stored = queries.rooms_by_sid(conn, scope, span)
    async for row, state in _joined(stored, lambda row: row.state.sid, proven, lambda room: room.sid):
        checked.states += row is not None
        expected = state
        if state is not None:
            # No event says that another room followed. That is known only from the other room.
            followed_ms = row.followed_ms if row is not None else await queries.followed_ms(conn, state)
            expected = msgspec.structs.replace(state, superseded_ms=followed_ms)
        found = _judge("room", scope, row.state if row else None, expected, merge_room, horizon_ms, checked)
        if found is not None:
            yield found


async def audit_runs(
    conn: Connection, scope: AuditScope, horizon_ms: int | None, checked: Checked
) -> AsyncIterator[Found]:
    """Compare egresses and ingress runs with their events, and their columns with their states.

    The ids of runs are only in the bodies of events. So the runs are kept in memory, up to ``_RUNS_AT_ONCE`` in each pass over
    the events.
    """
    passes = 1 + await queries.count_runs(conn, scope) // _RUNS_AT_ONCE
    for number in range(passes):
        proven: dict[tuple[str, str], MediaRun] = {}
        async for event in queries.events_of_runs(conn, scope):
            seen = _observed(event)
            run = seen.run if seen is not None else None
            if run is not None and crc32(run.id.encode()) % passes == number:
                key: tuple[str, str] = (run.meter, run.id)
                proven[key] = merge_run(proven[key], run) if key in proven else run
        async for row in queries.runs(conn, scope):
            if crc32(row.state.id.encode()) % passes != number:
                continue
            checked.states += 1
            state = proven.pop((row.state.meter, row.state.id), None)
            found = _judge("media_run", scope, row.state, state, merge_run, horizon_ms, checked)
            if found is not None:
                yield found
            elif wrong := differing(row.columns, run_columns(row.state)):
                yield Found(_difference("media_run", scope, row.state.id, wrong), scope, row.state, row.state)
        left = {key: run for key, run in proven.items() if run.project_id == scope.project_id}
        elsewhere = await queries.runs_of_a_project(conn, list(left)) if scope.owned is None and left else set()
        for name, run in sorted(left.items()):
            if name not in elsewhere:
                found = _judge("media_run", scope, None, run, merge_run, horizon_ms, checked)
                if found is not None:
                    yield found


def _judge(
    table: Table,
    scope: AuditScope,
    stored: T | None,
    proven: T | None,
    merge: Callable[[T, T], T],
    horizon_ms: int | None,
    checked: Checked,
) -> Found | None:
    known = stored if stored is not None else proven
    assert known is not None  # noqa: S101 - an outer join has at least one side
    expected = proven
    if stored is not None and not is_proven(stored, horizon_ms):
        checked.unproven += 1
        expected = merge(stored, proven) if proven is not None else stored
    if expected == stored:
        return None
    name = known.sid if not isinstance(known, MediaRun) else f"{known.meter} {known.id}"
    fields = differing(registers(stored), registers(expected))
    return Found(_difference(table, scope, name, fields), scope, stored, expected)


def _difference(table: Table, scope: AuditScope, key: str, fields: dict[str, tuple[object, object]]) -> Difference:
    return Difference(table=table, project_id=scope.project_id, mode=scope.mode, key=key, fields=fields)


async def _folded(
    events: AsyncIterator[KeptEvent],
    checked: Checked,
    part: Callable[[Observation], T | None],
    merge: Callable[[T, T], T],
) -> AsyncIterator[T]:
    """Fold a stream of events that is ordered by sid. Yield one state for each sid."""
    sid, state = "", None
    async for event in events:
        checked.events += 1
        if event.sid != sid:
            if state is not None:
                yield state
            sid, state = event.sid, None
        seen = _observed(event)
        piece = part(seen) if seen is not None else None
        if piece is not None:
            state = piece if state is None else merge(state, piece)
    if state is not None:
        yield state


async def _joined(
    left: AsyncIterator[S], left_key: Callable[[S], str], right: AsyncIterator[T], right_key: Callable[[T], str]
) -> AsyncIterator[tuple[S | None, T | None]]:
    """Join two ascending streams (full outer join).

    Keys ascend by code point, as in Postgres' "C" collation.
    """
    a, b = await anext(left, None), await anext(right, None)
    while a is not None or b is not None:
        key_a, key_b = (left_key(a) if a is not None else None), (right_key(b) if b is not None else None)
        take_a = a is not None and (key_b is None or (key_a is not None and key_a <= key_b))
        take_b = b is not None and (key_a is None or (key_b is not None and key_b <= key_a))
        yield (a if take_a else None), (b if take_b else None)
        if take_a:
            a = await anext(left, None)
        if take_b:
            b = await anext(right, None)
