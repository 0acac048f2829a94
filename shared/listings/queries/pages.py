"""Read keyset pages, newest first, at a bounded cost.

At most ``SCANNED`` rows a page are read in the order of an index; the other filters are applied to them. So a page may hold
fewer rows than requested, even none, although there is a next page. No request scans millions of rows for a rare name.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from shared.infra.postgres.pool import Connection

SCANNED = 10_000


class Page(NamedTuple):
    """A page. ``next_key``: the sort key after which the next page begins; None on the last one."""

    rows: list[asyncpg.Record]
    next_key: tuple[Any, Any] | None


class Condition(NamedTuple):
    """An SQL condition with ``{}`` for each of its values."""

    text: str
    values: tuple[Any, ...]


class PageSource(NamedTuple):
    """The query that pages are read from.

    ``indexed``: conditions that an index covers. ``filters``: conditions on those rows. ``key``: the two columns that sort.
    ``shown``: the columns that are selected from the page, if not ``columns``; may use window functions over the page.
    """

    table: str
    columns: str
    key: tuple[str, str]
    indexed: Sequence[Condition]
    filters: Sequence[Condition]
    shown: str | None = None


async def page_of(conn: Connection, listing: PageSource, after: tuple[Any, Any] | None, limit: int) -> Page:
    """Return the page of at most ``limit`` rows that follow the key ``after``."""
    first, second = listing.key
    indexed = list(listing.indexed)
    if after is not None:
        indexed.append(Condition(f"({first}, {second}) < ({{}}, {{}})", after))
    values: list[Any] = []
    found = f"FROM {listing.table} WHERE {_all(indexed, values)} ORDER BY {first} DESC, {second} DESC"
    if not listing.filters:
        wanted = f"SELECT {listing.columns} {found} LIMIT {limit + 1}"
        rows = await conn.fetch(_shown(listing, wanted), *values)
        return _page(rows, limit, listing.key, None)
    bounds = tuple(values)
    wanted = f"""
        SELECT {listing.columns}
        FROM (SELECT {listing.columns} {found} LIMIT {SCANNED}) AS found
        WHERE {_all(listing.filters, values)}
        LIMIT {limit + 1}
        """
    rows = await conn.fetch(_shown(listing, wanted), *values)
    scanned_to = None
    if len(rows) <= limit:
        scanned_to = await conn.fetchrow(f"SELECT {first}, {second} {found} OFFSET {SCANNED - 1} LIMIT 1", *bounds)
    return _page(rows, limit, listing.key, scanned_to)


def _shown(listing: PageSource, wanted: str) -> str:
    if listing.shown is None:
        return wanted
    first, second = listing.key
    return f"SELECT {listing.shown} FROM ({wanted}) AS page ORDER BY {first} DESC, {second} DESC"


def _all(conditions: Sequence[Condition], values: list[Any]) -> str:
    parts = []
    for condition in conditions:
        numbers = range(len(values) + 1, len(values) + 1 + len(condition.values))
        parts.append(condition.text.format(*(f"${number}" for number in numbers)))
        values += condition.values
    return " AND ".join(parts)


def _page(rows: list[asyncpg.Record], limit: int, key: tuple[str, str], scanned_to: asyncpg.Record | None) -> Page:
    last = rows[limit - 1] if len(rows) > limit else scanned_to
    return Page(rows[:limit], None if last is None else (last[key[0]], last[key[1]]))
