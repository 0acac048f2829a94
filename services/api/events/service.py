"""Read a project's events and convert them to answers."""

from datetime import datetime
from typing import Any

import msgspec

from services.api.events.schemas import EventsAnswer, EventsQuery, ListedEvent
from services.api.http.cursors import read_cursor, write_cursor
from services.api.http.query import parse_instant, unix_ms
from services.api.http.transaction import reading
from shared.infra.clock import rfc3339
from shared.infra.postgres.pool import Connection, Pool
from shared.listings.queries import event_pages
from shared.models.scope import Scope
from shared.models.usage.listings import EventFilter, EventRecord


async def events_for(pool: Pool, scope: Scope, query: EventsQuery) -> EventsAnswer:
    """Read a page of events. Raises ``InvalidRequest`` and ``StoreUnavailable``."""
    _filter_of(query)  # an invalid request borrows no connection
    async with reading(pool, "events") as conn:
        return await events_on(conn, scope, query)


async def events_on(conn: Connection, scope: Scope, query: EventsQuery) -> EventsAnswer:
    """Read a page of events on the caller's snapshot. Raises ``InvalidRequest``."""
    wanted, request, after = _filter_of(query)
    page = await event_pages.page_of_events(conn, scope, wanted, after, query.limit)
    return EventsAnswer(
        events=[_event(row) for row in page.rows],
        next_cursor=None if page.next_key is None else write_cursor(request, page.next_key),
    )


def _filter_of(query: EventsQuery) -> tuple[EventFilter, list[Any], Any]:
    """Return the filter, the request of the cursor, and the cursor's key. Raises ``InvalidRequest``."""
    query.check_range()
    wanted = EventFilter(
        event=query.event,
        room=query.room,
        identity=query.identity,
        session=query.session,
        from_ms=unix_ms(query.from_),
        to_ms=unix_ms(query.to),
    )
    request = ["events", *wanted]
    return wanted, request, read_cursor(query.cursor, request, (int, str))


async def event_for(pool: Pool, scope: Scope, event_id: str, at: str) -> ListedEvent | None:
    """Find the event of this id that LiveKit created at ``at`` (RFC 3339).

    Raises ``InvalidRequest`` and ``StoreUnavailable``.
    """
    parse_instant(at, "at")  # an invalid request borrows no connection
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
    """Return the webhook's body without the secret password of the room for LiveKit's TURN server.

    None for a body that is not UTF-8, because it cannot be part of a JSON answer.
    """
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
