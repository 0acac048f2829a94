"""One request, one transaction: opened by the edge that handles the request, never by what it calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from shared.errors import StoreUnavailable
from shared.infra.postgres.pool import UNAVAILABLE, Connection, Pool, borrowed, in_transaction


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """Open a transaction: committed at the end, rolled back by an exception. Raises ``StoreUnavailable``."""
    try:
        async with borrowed(pool) as conn, in_transaction(conn):
            yield conn
    except UNAVAILABLE as error:
        raise StoreUnavailable("Relay cannot reach Postgres. Try again shortly.") from error


@asynccontextmanager
async def reading(pool: Pool, what: str, *, at_once: bool = False) -> AsyncIterator[Connection]:
    """Open one snapshot, in which a session that ends meanwhile is either open or ended.

    ``what`` is read, for the error text. ``at_once``: for a single statement, which needs no transaction. Raises
    ``StoreUnavailable``.
    """
    try:
        async with borrowed(pool) as conn:
            if at_once:
                yield conn
                return
            async with in_transaction(conn, snapshot=True):
                yield conn
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        raise StoreUnavailable(f"Relay cannot read {what} at the moment. Try again shortly.") from error
