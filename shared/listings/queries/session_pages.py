"""SQL of pages of a project's metered sessions."""

from typing import Any

import msgspec

from shared.infra.postgres.pool import Connection
from shared.listings.queries.pages import Condition, PageSource, page_of
from shared.metering.state import Session
from shared.models.scope import Scope
from shared.models.usage.listings import SessionFilter, SessionPage, SessionRecord

Key = tuple[int, str]
_COLUMNS = "sid, room, identity, kind, started_ms, ended_ms, ended_by, confirmed_ms, state"
_decode = msgspec.json.Decoder(Session).decode


def _listed(row: Any) -> SessionRecord:
    return SessionRecord(_decode(row["state"]), *(row[name] for name in SessionRecord._fields[1:]))


async def page_of_sessions(
    conn: Connection, scope: Scope, wanted: SessionFilter, after: Key | None, limit: int
) -> SessionPage:
    """Return a page of sessions, the latest start first. ``after``: the ``next_key`` of the page before."""
    # The partial indexes need the condition started_ms IS NOT NULL.
    indexed = [Condition("project_id = {} AND mode = {} AND started_ms IS NOT NULL", tuple(scope))]
    filters: list[Condition] = []
    if wanted.from_ms is not None:
        indexed.append(Condition("started_ms >= {}", (wanted.from_ms,)))
    if wanted.to_ms is not None:
        indexed.append(Condition("started_ms < {}", (wanted.to_ms,)))
    # The most selective condition that is given chooses the index. The others filter its rows.
    if wanted.identity is not None:
        indexed.append(Condition("identity = {}", (wanted.identity,)))
    if wanted.room is not None:
        (indexed if wanted.identity is None else filters).append(Condition("room = {}", (wanted.room,)))
    if wanted.status == "open":
        named = wanted.identity is not None or wanted.room is not None
        (filters if named else indexed).append(Condition("ended_ms IS NULL", ()))
    elif wanted.status == "ended":
        filters.append(Condition("ended_ms IS NOT NULL", ()))
    if wanted.kind is not None:
        filters.append(Condition("kind = {}", (wanted.kind,)))
    listing = PageSource("session", _COLUMNS, ("started_ms", "sid"), indexed, filters)
    page = await page_of(conn, listing, after, limit)
    return SessionPage([_listed(row) for row in page.rows], page.next_key)


async def session_of(conn: Connection, scope: Scope, sid: str) -> SessionRecord | None:
    """Return a metered session of this project and mode, or None."""
    row = await conn.fetchrow(
        f"""
        SELECT {_COLUMNS}
        FROM session
        WHERE sid = $1
          AND project_id = $2
          AND mode = $3
          AND started_ms IS NOT NULL
        """,
        sid,
        *scope,
    )
    return None if row is None else _listed(row)
