"""Reads pages of a project's sessions and events into what is answered."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from services.api.http.cursors import Cursor, read_cursor, write_cursor
from services.api.http.query import ExactName, Instant, Query, parse_instant, unix_ms
from services.api.sessions.schemas import EventsAnswer, ListedEvent, ListedSession, SessionsAnswer, TrackOfSession
from services.api.usage.answer import minutes
from services.api.usage.service import reading
from shared.errors import InvalidRequest, SessionNotFound
from shared.infra.clock import rfc3339
from shared.infra.postgres.pool import Pool
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
    """A page of sessions. Raises ``InvalidRequest`` and ``StoreUnavailable``."""
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
    async with reading(pool, "sessions") as conn:
        page = await session_pages.page_of_sessions(conn, scope, wanted, after, query.limit)
    return SessionsAnswer(
        sessions=[_session(row, asked) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(place, page.next_key),
    )


async def session_for(pool: Pool, scope: Scope, sid: str, asked: UsageClock) -> ListedSession:
    """One session with its tracks. Raises ``SessionNotFound`` and ``StoreUnavailable``."""
    if "\0" in sid:
        raise SessionNotFound(sid)
    async with reading(pool, "sessions") as conn:
        row = await session_pages.session_of(conn, scope, sid)
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
    """A page of events. Raises ``InvalidRequest`` and ``StoreUnavailable``."""
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
    async with reading(pool, "events") as conn:
        page = await event_pages.page_of_events(conn, scope, wanted, after, query.limit)
    return EventsAnswer(
        events=[_event(row) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(place, page.next_key),
    )


async def event_for(pool: Pool, scope: Scope, event_id: str, at: str) -> ListedEvent | None:
    """The event of this id that LiveKit created at ``at`` (RFC 3339). Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    at_ms = parse_instant(at, "at")
    if "\0" in event_id:
        return None
    async with reading(pool, "events") as conn:
        row = await event_pages.event_of(conn, scope, at_ms, event_id)
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
