"""Open connections to Postgres and pools of them, and run transactions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.infra.postgres.database_url import DatabaseUrl
from shared.infra.postgres.errors import UNAVAILABLE as UNAVAILABLE
from shared.infra.postgres.errors import ReadOnlySession
from shared.infra.postgres.queries import CLEAR
from shared.infra.postgres.session import open_session

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:  # asyncpg's classes take parameters only in its stubs
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

COMMAND_TIMEOUT_S = 30.0
# How long a request may use a connection.
BORROWED_S = 10.0


async def connect(database: DatabaseUrl, application: str = "relay") -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection. The caller closes it.

    Raises ``DatabaseUnusable``, which is one of ``UNAVAILABLE``.
    """
    return await open_session(database, application, command_timeout=COMMAND_TIMEOUT_S)


def create_pool(
    database: DatabaseUrl,
    application: str,
    *,
    min_size: int = 0,
    max_size: int = 10,
    stateless: bool = False,
    init: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> Pool:
    """Create a pool; ``await`` or ``async with`` opens it.

    With ``min_size`` 0 it opens even while Postgres is away. ``stateless``: callers leave no setting, lock or listener in a
    session, so releasing a connection needs no round trip to clear them. A transaction that was left open is rolled back in any
    case. ``init``: called once with every new connection.
    """

    async def open_one(_dsn: None, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
        return await open_session(database, application, command_timeout=COMMAND_TIMEOUT_S, **options)

    pool: Pool = asyncpg.create_pool(  # type: ignore[call-overload] # the stubs forbid a connect() with keyword arguments
        min_size=min_size,
        max_size=max_size,
        connect=open_one,
        setup=_refuse_read_only,
        reset=_leave if stateless else _clear,
        init=init,
    )
    return pool


def became_read_only(conn: Connection) -> bool:
    """Return whether the server has reported that this session accepts no more writes.

    Needs no round trip.
    """
    settings = conn.get_settings()
    return "on" in (
        getattr(settings, "in_hot_standby", "off"),
        getattr(settings, "default_transaction_read_only", "off"),
    )


async def _refuse_read_only(conn: Any) -> None:
    """The ``setup`` of a pool. asyncpg closes a connection for which it raises."""
    if became_read_only(conn):
        raise ReadOnlySession


async def renew_if_read_only(pool: Pool, error: BaseException) -> None:
    """Replace the connections of a pool after an error that says that one of them accepts no writes."""
    if isinstance(error, (ReadOnlySession, asyncpg.ReadOnlySQLTransactionError)):
        await pool.expire_connections()


_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


# Cached, because rows that are copied together were created and received in the same few seconds.
@lru_cache(maxsize=4096)
def _microseconds(at: datetime) -> tuple[int]:
    return ((at - _POSTGRES_EPOCH) // _MICROSECOND,)


async def remember_times(conn: Any) -> None:
    """Cache the encoded times of a connection, for copying many rows that have few different times.

    asyncpg's own encoding is two thirds of the cost of such a copy. Times must have a time zone. Reading does not change.
    """
    await conn.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=_microseconds,
        decoder=lambda sent: _POSTGRES_EPOCH + sent[0] * _MICROSECOND,
        format="tuple",
    )


def end_statements_after(seconds: float) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Create an ``init`` that limits the time of each statement, for connections that may be cut off.

    Postgres notices a lost client only when its statement ends. If clients retry statements that wait for a lock, these could
    use up all connections. The limit is set after connecting, because PgBouncer refuses unknown parameters.
    """

    async def limit(conn: Any) -> None:
        await conn.execute("SELECT set_config('statement_timeout', $1, false)", f"{round(seconds * 1000)}ms")

    return limit


@asynccontextmanager
async def borrowed(pool: Pool, within_s: float = BORROWED_S) -> AsyncIterator[Connection]:
    """Borrow a connection of the pool. Waiting for it and using it may take ``within_s`` together.

    Raises one of ``UNAVAILABLE``. After that time, or when the caller is cancelled, the connection is cut off. Cancelling the
    statement is not tried: if Postgres hangs, it does not answer that either, and asyncpg would wait for half a minute despite
    any time-out around it. Postgres must end a running statement itself (``end_statements_after``).
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    async with _acquired(pool, within_s) as conn:
        timer = loop.call_at(until, _cut_off, conn)
        try:
            yield conn
        except (asyncio.CancelledError, asyncpg.ReadOnlySQLTransactionError):
            _cut_off(conn)
            raise
        finally:
            timer.cancel()


@asynccontextmanager
async def _acquired(pool: Pool, within_s: float) -> AsyncIterator[Connection]:
    """Acquire a connection. If it has become read-only, replace all connections and try a new one."""
    async with AsyncExitStack() as stack:
        try:
            conn = await stack.enter_async_context(pool.acquire(timeout=within_s))
        except ReadOnlySession as error:
            await renew_if_read_only(pool, error)
            conn = await stack.enter_async_context(pool.acquire(timeout=within_s))
        yield conn


@asynccontextmanager
async def in_transaction(conn: Connection, *, snapshot: bool = False) -> AsyncIterator[None]:
    """Run the block in a transaction on a ``borrowed`` connection.

    It commits at the end; an exception rolls it back. ``snapshot``: all reads see one instant, and writes are not allowed.

    When the caller is cancelled, the connection is cut off, so Postgres rolls back by itself. asyncpg's own transaction block
    would wait for an answer, and raise an error in place of the cancellation.
    """
    transaction = conn.transaction(isolation="repeatable_read", readonly=True) if snapshot else conn.transaction()
    await transaction.start()
    try:
        yield
    except asyncio.CancelledError:
        _cut_off(conn)
        raise
    except BaseException:
        await transaction.rollback()
        raise
    await transaction.commit()


def _cut_off(conn: Connection) -> None:
    # If it was cut off before, the connection is back in the pool and refuses calls. That error must not hide a cancellation.
    with suppress(asyncpg.InterfaceError):
        conn.terminate()


async def _leave(_connection: Any) -> None:
    """Do nothing: a stateless session has nothing to clear."""


async def _clear(connection: Any) -> None:
    """Clear locks, cursors and channels, but keep the settings that the session started with."""
    await connection.execute(CLEAR)
