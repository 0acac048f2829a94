"""Open the transaction of a request. Only route handlers do this, never the functions they call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from shared.errors import StoreUnavailable
from shared.infra.postgres.pool import UNAVAILABLE, Connection, Pool, borrowed, in_transaction


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """Open a transaction, which an exception rolls back. Raises ``StoreUnavailable``."""
    try:
        async with borrowed(pool) as conn, in_transaction(conn):
            yield conn
    except (*UNAVAILABLE, asyncpg.QueryCanceledError) as error:  # canceled by `statement_timeout`
        raise StoreUnavailable("Relay cannot reach Postgres. Try again shortly.") from error


@asynccontextmanager
async def reading(pool: Pool, what: str, *, at_once: bool = False) -> AsyncIterator[Connection]:
    """Open a snapshot, so that a session that ends meanwhile is open or ended in all statements.

    ``what``: what is read, for the error text. ``at_once``: for a single statement, which needs no transaction. Raises
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
