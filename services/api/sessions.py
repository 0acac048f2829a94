"""Reads pages of a project's sessions and events into what is answered."""

from collections.abc import Mapping
from datetime import datetime
from typing import get_args

import msgspec

from services.api.cursors import read_cursor, write_cursor
from services.api.parameters import choice, instant, name_like, only_known, whole_number
from services.api.usage import reading
from services.api.usage_answer import minutes
from shared.clock import rfc3339
from shared.errors import InvalidRequest, SessionNotFound
from shared.metering.rounding import Amounts, Rounding
from shared.metering.state import Session
from shared.metering.usage import Interval, counted_until, usage_between
from shared.models.listings import EventFilter, EventRecord, SessionFilter, SessionRecord, SessionStatus
from shared.models.scope import Scope
from shared.models.sessions import EventsAnswer, ListedEvent, ListedSession, SessionsAnswer, TrackOfSession
from shared.models.usage_ranges import UsageClock
from shared.postgres import Pool
from shared.queries import event_pages, session_pages

STATUSES: tuple[SessionStatus, ...] = get_args(SessionStatus)
DEFAULT_LIMIT, MAX_LIMIT = 50, 200
_PAGING = ("from", "to", "limit", "cursor")
_SESSION_NAMES = ("room", "identity", "kind")
_EVENT_NAMES = ("event", "room", "identity", "session")


async def sessions_for(pool: Pool, scope: Scope, params: Mapping[str, list[str]], asked: UsageClock) -> SessionsAnswer:
    """Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    given = only_known(params, (*_SESSION_NAMES, "status", *_PAGING))
    wanted = SessionFilter(
        **{name: name_like(given, name) for name in _SESSION_NAMES},
        status=choice(given, "status", STATUSES),
        from_ms=_maybe_instant(given, "from"),
        to_ms=_maybe_instant(given, "to"),
    )
    _check_range(wanted.from_ms, wanted.to_ms)
    place = ["sessions", *wanted]
    after = read_cursor(given.get("cursor"), place, (int, str))
    limit = whole_number(given, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
    async with reading(pool, "sessions") as conn:
        page = await session_pages.page_of_sessions(conn, scope, wanted, after, limit)
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
    amounts = Amounts()
    for hour in usage_between(session, interval, row.started_ms, until_ms).values():
        amounts = amounts.plus(Amounts(*hour[:3]))
    shown = Rounding().show(amounts)
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


async def events_for(pool: Pool, scope: Scope, params: Mapping[str, list[str]]) -> EventsAnswer:
    """Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    given = only_known(params, (*_EVENT_NAMES, *_PAGING))
    wanted = EventFilter(
        **{name: name_like(given, name) for name in _EVENT_NAMES},
        from_ms=_maybe_instant(given, "from"),
        to_ms=_maybe_instant(given, "to"),
    )
    _check_range(wanted.from_ms, wanted.to_ms)
    place = ["events", *wanted]
    after = read_cursor(given.get("cursor"), place, (int, str))
    limit = whole_number(given, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
    async with reading(pool, "events") as conn:
        page = await event_pages.page_of_events(conn, scope, wanted, after, limit)
    return EventsAnswer(
        events=[_event(row) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(place, page.next_key),
    )


async def event_for(pool: Pool, scope: Scope, event_id: str, at: str) -> ListedEvent | None:
    """The event of this id that LiveKit created at ``at`` (RFC 3339). Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    at_ms = instant({"at": at}, "at")
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


def _maybe_instant(given: Mapping[str, str], name: str) -> int | None:
    return instant(given, name) if name in given else None


def _check_range(from_ms: int | None, to_ms: int | None) -> None:
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidRequest("from must be before to", "from")
