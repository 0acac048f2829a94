"""SQL of pages of a project's stored events."""

from datetime import UTC, datetime

from shared.infra.postgres.pool import Connection
from shared.listings.queries.pages import Condition, PageSource, page_of
from shared.models.scope import Scope
from shared.models.usage.listings import EventFilter, EventPage, EventRecord

_NAMES = "created_at, id, received_at, name, room, room_sid, participant_sid, identity"
# The size of all bodies of a page (the first is returned whatever its size). Two hundred of the largest events would take
# several times 200 MiB in an API process, and every client that can mint a token can make LiveKit send them.
PAGE_BYTES = 4 * 1024 * 1024
_SO_FAR = "sum(octet_length(body)) OVER (ORDER BY created_at DESC, id DESC) - octet_length(body)"
# A session may start before its first event, and events of its end may follow its end.
_AROUND_SESSION_MS = 60_000


async def page_of_events(
    conn: Connection, scope: Scope, wanted: EventFilter, after: tuple[int, str] | None, limit: int
) -> EventPage:
    """Return a page of events, the latest creation first.

    ``after``: the ``next_key`` (unix ms, id) of the page before. A page ends early if its bodies would exceed ``PAGE_BYTES``.
    """
    from_ms, to_ms = wanted.from_ms, wanted.to_ms
    if wanted.session is not None:
        row = await conn.fetchrow(
            """
            SELECT started_ms, ended_ms, ended_by
            FROM session
            WHERE sid = $1
              AND project_id = $2
              AND mode = $3
            """,
            wanted.session,
            *scope,
        )
        if row is not None and row["started_ms"] is not None:
            from_ms = max(from_ms or 0, row["started_ms"] - _AROUND_SESSION_MS)
            # An inferred end is the session's last sign. The event that reports it may come at any later time.
            if row["ended_ms"] is not None and row["ended_by"] != "reconciled":
                to_ms = min(to_ms or 1 << 52, row["ended_ms"] + 60 * _AROUND_SESSION_MS)
    indexed = [Condition("project_id = {} AND mode = {} AND project_id IS NOT NULL", tuple(scope))]
    if from_ms is not None:
        indexed.append(Condition("created_at >= {}", (_utc(from_ms),)))
    if to_ms is not None:
        indexed.append(Condition("created_at < {}", (_utc(to_ms),)))
    columns = {
        "name": wanted.event,
        "room": wanted.room,
        "identity": wanted.identity,
        "participant_sid": wanted.session,
    }
    filters = [Condition(f"{column} = {{}}", (value,)) for column, value in columns.items() if value is not None]
    shown = f"{_NAMES}, CASE WHEN {_SO_FAR} < {PAGE_BYTES} THEN body END AS body"
    listing = PageSource("event", f"{_NAMES}, body", ("created_at", "id"), indexed, filters, shown)
    key = None if after is None else (_utc(after[0]), after[1])
    page = await page_of(conn, listing, key, limit)
    rows = [EventRecord(*row) for row in page.rows if row["body"] is not None]
    following = page.next_key
    if len(rows) < len(page.rows):
        following = (rows[-1].created_at, rows[-1].id)
    next_key = None if following is None else (round(following[0].timestamp() * 1000), following[1])
    return EventPage(rows, next_key)


async def event_of(conn: Connection, scope: Scope, at_ms: int, event_id: str) -> EventRecord | None:
    """Return the event of this id that LiveKit created at ``at_ms`` (unix ms)."""
    row = await conn.fetchrow(
        f"""
        SELECT {_NAMES}, body
        FROM event
        WHERE created_at = $1
          AND id = $2
          AND project_id = $3
          AND mode = $4
        """,
        _utc(at_ms),
        event_id,
        *scope,
    )
    return None if row is None else EventRecord(*row)


def _utc(at_ms: int) -> datetime:
    """Return a time as a UTC datetime, limited to the range that is stored."""
    return datetime.fromtimestamp(min(max(at_ms, 0), 1 << 47) / 1000, UTC)
