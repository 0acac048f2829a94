"""Read a project's sessions and convert them to answers."""

from typing import Any

from services.api.http.cursors import read_cursor, write_cursor
from services.api.http.query import unix_ms
from services.api.http.transaction import reading
from services.api.sessions.schemas import ListedSession, SessionsAnswer, SessionsQuery, TrackOfSession
from services.api.usage.answer import minutes
from shared.errors import SessionNotFound
from shared.infra.clock import rfc3339
from shared.infra.postgres.pool import Connection, Pool
from shared.listings.queries import session_pages
from shared.metering.rounding import Amounts, Rounding
from shared.metering.state import Session
from shared.metering.usage import Interval, bill_between, counted_until
from shared.models.scope import Scope
from shared.models.usage.listings import SessionFilter, SessionRecord
from shared.models.usage.ranges import UsageClock


async def sessions_for(pool: Pool, scope: Scope, query: SessionsQuery, clock: UsageClock) -> SessionsAnswer:
    """Read a page of sessions. Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    _filter_of(query)  # an invalid request borrows no connection
    async with reading(pool, "sessions") as conn:
        return await sessions_on(conn, scope, query, clock)


async def sessions_on(conn: Connection, scope: Scope, query: SessionsQuery, clock: UsageClock) -> SessionsAnswer:
    """Read a page of sessions on the caller's snapshot. Raises ``InvalidRequest``."""
    wanted, request, after = _filter_of(query)
    page = await session_pages.page_of_sessions(conn, scope, wanted, after, query.limit)
    return SessionsAnswer(
        sessions=[_session(row, clock) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(request, page.next_key),
    )


def _filter_of(query: SessionsQuery) -> tuple[SessionFilter, list[Any], Any]:
    """Return the filter, the request of the cursor, and the cursor's key. Raises ``InvalidRequest``."""
    query.check_range()
    wanted = SessionFilter(
        room=query.room,
        identity=query.identity,
        kind=query.kind,
        status=query.status,
        from_ms=unix_ms(query.from_),
        to_ms=unix_ms(query.to),
    )
    request = ["sessions", *wanted]
    return wanted, request, read_cursor(query.cursor, request, (int, str))


async def session_for(pool: Pool, scope: Scope, sid: str, clock: UsageClock) -> ListedSession:
    """Read one session with its tracks. Raises ``SessionNotFound`` and ``StoreUnavailable``."""
    async with reading(pool, "sessions") as conn:
        return await session_on(conn, scope, sid, clock)


async def session_on(conn: Connection, scope: Scope, sid: str, clock: UsageClock) -> ListedSession:
    """Read one session with its tracks on the caller's snapshot. Raises ``SessionNotFound``."""
    row = None if "\0" in sid else await session_pages.session_of(conn, scope, sid)
    if row is None:
        raise SessionNotFound(sid)
    answer = _session(row, clock)
    answer.tracks = _tracks(row.session)
    return answer


def _session(row: SessionRecord, clock: UsageClock) -> ListedSession:
    session, until_ms = row.session, row.ended_ms
    if until_ms is None:
        until_ms = max(row.started_ms, counted_until(session, row.confirmed_ms, *clock))
    # The stored interval is used, because it was billed. Computing it again would need the session's room.
    interval = Interval(row.started_ms, until_ms, None)
    usage = bill_between(session, interval, row.started_ms, until_ms).total()
    shown = Rounding().show(Amounts(*usage[:3]))
    return ListedSession(
        participant_minutes=minutes(shown.participant),
        video_minutes=minutes(shown.video),
        audio_minutes=minutes(shown.audio),
        screen_share_minutes=minutes(shown.screen_share),
        sid=session.sid,
        room=session.room,
        room_sid=session.room_sid,
        identity=session.identity,
        name=session.name,
        kind=row.kind,
        started_at=rfc3339(row.started_ms),
        ended_at=None if row.ended_ms is None else rfc3339(row.ended_ms),
        ended_by=row.ended_by,
        disconnect_reason=session.disconnect_reason,
        counted_until=rfc3339(until_ms),
        completeness="provisional"
        if row.ended_ms is None
        else "inferred"
        if row.ended_by == "reconciled"
        else "observed",
    )


def _tracks(session: Session) -> list[TrackOfSession]:
    return [
        TrackOfSession(
            sid=sid,
            type=track.type,
            source=track.source,
            published_at=None if track.published_ms is None else rfc3339(track.published_ms),
            unpublished_at=None if track.unpublished_ms is None else rfc3339(track.unpublished_ms),
        )
        for sid, track in sorted(session.tracks.items(), key=lambda item: (item[1].published_ms or 0, item[0]))
    ]
