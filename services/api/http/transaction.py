"""One request, one transaction: opened by the edge that handles the request, never by what it calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import StoreUnavailable
from shared.infra.postgres.pool import UNAVAILABLE, Connection, Pool, borrowed, in_transaction


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction that is committed at the end, or rolled back by an exception. Raises
    ``StoreUnavailable`` while Postgres is away."""
    try:
        async with borrowed(pool) as conn, in_transaction(conn):
            yield conn
    except UNAVAILABLE as error:
        raise StoreUnavailable("this cannot be done at the moment; try again shortly") from error
