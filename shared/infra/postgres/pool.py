"""Connections to Postgres."""

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
# What waits for an answer, such as a request, has a connection for so long.
BORROWED_S = 10.0


async def connect(database: DatabaseUrl, application: str = "relay") -> "asyncpg.Connection[asyncpg.Record]":
    """One connection; the caller closes it. Raises ``DatabaseUnusable``, which is one of ``UNAVAILABLE``."""
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
    """A pool; ``await`` or ``async with`` opens it. With ``min_size`` 0 it opens even while Postgres is away.

    ``stateless``: whoever borrows a connection leaves nothing in its session, no setting, no lock, no listener. Then giving it
    back needs no round trip that clears all that away. A transaction that was left open is rolled back all the same. ``init``:
    done once with every new connection."""

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
    """Whether the server has said since that this session takes no more writes. Costs no round trip."""
    settings = conn.get_settings()
    return "on" in (
        getattr(settings, "in_hot_standby", "off"),
        getattr(settings, "default_transaction_read_only", "off"),
    )


async def _refuse_read_only(conn: Any) -> None:
    """A pool's ``setup``: asyncpg closes a connection that this refuses."""
    if became_read_only(conn):
        raise ReadOnlySession


async def renew_if_read_only(pool: Pool, error: BaseException) -> None:
    """Have the pool replace its connections after an error that says that one of them takes no writes."""
    if isinstance(error, (ReadOnlySession, asyncpg.ReadOnlySQLTransactionError)):
        await pool.expire_connections()


_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


# What is copied together was created and received in the same few seconds.
@lru_cache(maxsize=4096)
def _microseconds(at: datetime) -> tuple[int]:
    return ((at - _POSTGRES_EPOCH) // _MICROSECOND,)


async def remember_times(conn: Any) -> None:
    """Has this connection send a time it has sent before without working it out again: for whoever copies many rows of few
    different times, of which asyncpg's own way is two thirds of the cost. Times must have a zone; they are read as ever."""
    await conn.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=_microseconds,
        decoder=lambda sent: _POSTGRES_EPOCH + sent[0] * _MICROSECOND,
        format="tuple",
    )


def end_statements_after(seconds: float) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """An ``init`` for connections that may be cut off: Postgres notices that nobody listens any more only when a statement
    ends, and those that wait for a lock, of clients that try again and again, would take its last connection. Set and not
    given when connecting: PgBouncer refuses what it does not know there."""

    async def limit(conn: Any) -> None:
        await conn.execute("SELECT set_config('statement_timeout', $1, false)", f"{round(seconds * 1000)}ms")

    return limit


@asynccontextmanager
async def borrowed(pool: Pool, within_s: float = BORROWED_S) -> AsyncIterator[Connection]:
    """A connection of the pool, and what is done with it, within so many seconds in all. Raises one of ``UNAVAILABLE``.

    It is cut off then, or when the caller is cancelled, and not asked to give up: where Postgres hangs, that is not answered
    either, and asyncpg would wait for half a minute, whatever time-out stood around it. A statement under way is not told:
    Postgres must end it by itself (``end_statements_after``)."""
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
    """A connection of the pool. If the one it has became read-only, all are replaced, and a new one says how it is."""
    async with AsyncExitStack() as stack:
        try:
            conn = await stack.enter_async_context(pool.acquire(timeout=within_s))
        except ReadOnlySession as error:
            await renew_if_read_only(pool, error)
            conn = await stack.enter_async_context(pool.acquire(timeout=within_s))
        yield conn


@asynccontextmanager
async def in_transaction(conn: Connection, *, snapshot: bool = False) -> AsyncIterator[None]:
    """A transaction on a ``borrowed`` connection, committed at the end of the block or rolled back by an exception.
    ``snapshot``: all that is read is of one instant, and nothing is written.

    Where the caller is cancelled, Postgres is not asked to roll back, which it does of itself on a connection that is cut off:
    asyncpg's own block would wait for the answer, and raise in place of the cancellation that none came."""
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
    # One that was cut off before is the pool's again, and refuses everything. A cancellation must not end in that.
    with suppress(asyncpg.InterfaceError):
        conn.terminate()


async def _leave(_connection: Any) -> None:
    """Clears nothing away."""


async def _clear(connection: Any) -> None:
    """Clear away locks, cursors and channels, and keep what the session started with."""
    await connection.execute(CLEAR)
