"""Reads pages of a project's sessions and events into what is answered."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.api.http.cursors import Cursor, read_cursor, write_cursor
from services.api.http.query import ExactName, Instant, Query, parse_instant, unix_ms
from services.api.sessions.schemas import EventsAnswer, ListedEvent, ListedSession, SessionsAnswer, TrackOfSession
from services.api.usage.answer import minutes
from services.api.usage.service import reading
from shared.errors import InvalidRequest, SessionNotFound
from shared.infra.clock import rfc3339
from shared.infra.postgres.pool import Connection, Pool
from shared.listings.queries import event_pages, session_pages
from shared.metering.rounding import Amounts, Rounding
from shared.metering.state import Session
from shared.metering.usage import Interval, bill_between, counted_until
from shared.models.scope import Scope
from shared.models.usage.listings import EventFilter, EventRecord, SessionFilter, SessionRecord, SessionStatus
from shared.models.usage.ranges import UsageClock

DEFAULT_LIMIT, MAX_LIMIT = 50, 200


class PageQuery(Query):
    """What both listings take."""

    from_: Annotated[Instant, Meta(description="Earliest time of an entry.")] | None = msgspec.field(
        default=None, name="from"
    )
    to: Annotated[Instant, Meta(description="End of the range, not included.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Entries a page. A page may hold fewer.")] = (
        DEFAULT_LIMIT
    )
    cursor: Cursor | None = None


class SessionsQuery(PageQuery):
    """The parameters of `GET /v1/sessions`."""

    room: ExactName | None = None
    identity: ExactName | None = None
    kind: ExactName | None = None
    status: Annotated[SessionStatus, Meta(description="Open or ended sessions. Default: both.")] | None = None


class EventsQuery(PageQuery):
    """The parameters of `GET /v1/events`."""

    event: ExactName | None = None
    room: ExactName | None = None
    identity: ExactName | None = None
    session: ExactName | None = None


async def sessions_for(pool: Pool, scope: Scope, query: SessionsQuery, asked: UsageClock) -> SessionsAnswer:
    """Read a page of sessions. Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    _asked_sessions(query)  # a request that is wrong borrows no connection
    async with reading(pool, "sessions") as conn:
        return await sessions_on(conn, scope, query, asked)


def _asked_sessions(query: SessionsQuery) -> tuple[SessionFilter, list[Any], Any]:
    """What is asked for, the place that a cursor must name, and the cursor's key. Raises ``InvalidRequest``."""
    _check_range(query)
    wanted = SessionFilter(
        room=query.room,
        identity=query.identity,
        kind=query.kind,
        status=query.status,
        from_ms=unix_ms(query.from_),
        to_ms=unix_ms(query.to),
    )
    place = ["sessions", *wanted]
    after = read_cursor(query.cursor, place, (int, str))
    return wanted, place, after


async def sessions_on(conn: Connection, scope: Scope, query: SessionsQuery, asked: UsageClock) -> SessionsAnswer:
    """Read a page of sessions on the caller's snapshot. Raises ``InvalidRequest``."""
    wanted, place, after = _asked_sessions(query)
    page = await session_pages.page_of_sessions(conn, scope, wanted, after, query.limit)
    return SessionsAnswer(
        sessions=[_session(row, asked) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(place, page.next_key),
    )


async def session_for(pool: Pool, scope: Scope, sid: str, asked: UsageClock) -> ListedSession:
    """Read one session with its tracks. Raises ``SessionNotFound`` and ``StoreUnavailable``."""
    async with reading(pool, "sessions") as conn:
        return await session_on(conn, scope, sid, asked)


async def session_on(conn: Connection, scope: Scope, sid: str, asked: UsageClock) -> ListedSession:
    """Read one session with its tracks on the caller's snapshot. Raises ``SessionNotFound``."""
    row = None if "\0" in sid else await session_pages.session_of(conn, scope, sid)
    if row is None:
        raise SessionNotFound(sid)
    answer = _session(row, asked)
    answer.tracks = _tracks(row.session)
    return answer


def _session(row: SessionRecord, asked: UsageClock) -> ListedSession:
    session, until_ms = row.session, row.ended_ms
    if until_ms is None:
        until_ms = max(row.started_ms, counted_until(session, row.confirmed_ms, *asked))
    # The interval as stored: it is what was billed, and the end of a session may hang on its room.
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


async def events_for(pool: Pool, scope: Scope, query: EventsQuery) -> EventsAnswer:
    """Read a page of events. Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    _asked_events(query)  # a request that is wrong borrows no connection
    async with reading(pool, "events") as conn:
        return await events_on(conn, scope, query)


def _asked_events(query: EventsQuery) -> tuple[EventFilter, list[Any], Any]:
    """What is asked for, the place that a cursor must name, and the cursor's key. Raises ``InvalidRequest``."""
    _check_range(query)
    wanted = EventFilter(
        event=query.event,
        room=query.room,
        identity=query.identity,
        session=query.session,
        from_ms=unix_ms(query.from_),
        to_ms=unix_ms(query.to),
    )
    place = ["events", *wanted]
    after = read_cursor(query.cursor, place, (int, str))
    return wanted, place, after


async def events_on(conn: Connection, scope: Scope, query: EventsQuery) -> EventsAnswer:
    """Read a page of events on the caller's snapshot. Raises ``InvalidRequest``."""
    wanted, place, after = _asked_events(query)
    page = await event_pages.page_of_events(conn, scope, wanted, after, query.limit)
    return EventsAnswer(
        events=[_event(row) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(place, page.next_key),
    )


async def event_for(pool: Pool, scope: Scope, event_id: str, at: str) -> ListedEvent | None:
    """Find the event of this id that LiveKit created at ``at`` (RFC 3339).

    Raises ``InvalidRequest`` and ``StoreUnavailable``.
    """
    parse_instant(at, "at")  # a request that is wrong borrows no connection
    async with reading(pool, "events") as conn:
        return await event_on(conn, scope, event_id, at)


async def event_on(conn: Connection, scope: Scope, event_id: str, at: str) -> ListedEvent | None:
    """Find an event on the caller's snapshot, like ``event_for``. Raises ``InvalidRequest``."""
    at_ms = parse_instant(at, "at")
    row = None if "\0" in event_id else await event_pages.event_of(conn, scope, at_ms, event_id)
    return None if row is None else _event(row)


def _event(row: EventRecord) -> ListedEvent:
    return ListedEvent(
        id=row.id,
        event=row.name,
        created_at=_utc(row.created_at),
        received_at=_utc(row.received_at),
        room=row.room,
        room_sid=row.room_sid,
        session=row.participant_sid,
        identity=row.identity,
        payload=_payload(row.body),
    )


def _payload(body: bytes) -> msgspec.Raw | None:
    """The body as it is but for the room's password to LiveKit's TURN server, which is nobody's to read; None if it is not in
    UTF-8 and can be no part of an answer."""
    try:
        if b"turnPassword" not in body:
            body.decode()
            return msgspec.Raw(body)
        payload = msgspec.json.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError):
        return None
    for value in payload.values():
        if isinstance(value, dict):
            value.pop("turnPassword", None)
    return msgspec.Raw(msgspec.json.encode(payload))


def _utc(at: datetime) -> str:
    return rfc3339(round(at.timestamp() * 1000))


def _check_range(query: PageQuery) -> None:
    if query.from_ is not None and query.to is not None and query.from_ >= query.to:
        raise InvalidRequest("from must be before to", "from")
