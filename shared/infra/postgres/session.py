"""Open a connection to Postgres that is writable, in the right schema and with its own session.

The settings of a session are applied and checked after connecting. A pooler refuses or forgets those given while connecting.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import asyncpg

from shared.infra.postgres import queries
from shared.infra.postgres.asyncpg_internals import socket_of
from shared.infra.postgres.database_url import Address, DatabaseUrl, Parts, parts_of
from shared.infra.postgres.errors import (
    DatabaseUnusable,
    ReadOnlySession,
    SchemaLost,
    TransactionPooling,
    connection_problem,
)

CONNECT_TIMEOUT_S = 5.0
# How long to test whether a pooler shares sessions. In session mode it may have no other session for the test.
_PROOF_TIMEOUT_S = 3.0
_PROOF_ROUNDS = 3
# The options of a TCP socket: their names in libpq and in the kernel. Not every system has all of them.
_TCP_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# asyncpg reads these only from a URL. All others are passed by name.
_IN_ASYNCPGS_URL = (
    "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)  # fmt: skip

_session_pooled: set[tuple[str, Address]] = set()


async def open_session(database: DatabaseUrl, application: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
    """Open a connection to the first host that accepts writes. The caller closes it.

    ``options``: those of asyncpg. Raises ``DatabaseUnusable``.
    """
    parts = parts_of(database.dsn)
    timeout_s = connect_timeout_s(parts)
    addresses = list(parts.addresses)
    if parts.parameters.get("load_balance_hosts") == "random":
        random.shuffle(addresses)  # no secret depends on it
    problem: DatabaseUnusable | None = None
    for address in addresses:
        try:
            async with asyncio.timeout(timeout_s):
                return await _open(database, address, application, options)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            found = connection_problem(error, address, database, timeout_s or 0.0)
            found.__cause__ = error if found is not error else None
        if not found.passing:
            raise found
        problem = problem or found
    assert problem is not None  # noqa: S101 - a URL has at least one host
    raise problem


def connect_timeout_s(parts: Parts) -> float | None:
    """Return the seconds for each host; None means no limit, which libpq writes as 0."""
    given = parts.parameters.get("connect_timeout")
    if given is None:
        return CONNECT_TIMEOUT_S
    return float(max(2, int(given))) if int(given) > 0 else None


def session_settings(database: DatabaseUrl) -> dict[str, str]:
    """Return the settings that each session starts with.

    Relay is written for READ COMMITTED and takes its own locks. With a stricter default of the server, transactions would fail
    without need.
    """
    settings = {"default_transaction_isolation": "read committed", **dict(database.session)}
    if database.schema is not None:
        settings["search_path"] = '"' + database.schema.replace('"', '""') + '"'
    return settings


def asyncpg_arguments(parts: Parts, address: Address, application: str) -> dict[str, Any]:
    """Return the arguments of ``asyncpg.connect`` for one address."""
    in_url = {name: parts.parameters[name] for name in _IN_ASYNCPGS_URL if name in parts.parameters}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in in_url.items())
    host = str(address) if address.is_socket else address.host
    return {
        "dsn": f"postgresql://?{query}" if query else None,
        "host": [host],
        "port": [address.port],
        "user": parts.user,
        "password": parts.password,
        "passfile": parts.parameters.get("passfile"),
        "database": parts.database,
        "server_settings": {"application_name": parts.parameters.get("application_name", application)},
        "timeout": None,
    }


async def _open(
    database: DatabaseUrl, address: Address, application: str, options: Mapping[str, Any]
) -> "asyncpg.Connection[asyncpg.Record]":
    parts = parts_of(database.dsn)
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        **asyncpg_arguments(parts, address, application), **options
    )
    try:
        if not address.is_socket:
            _keep_alive(socket_of(conn), parts.parameters)
        pooled, read_only = await queries.session_facts(conn, conn.get_server_pid())
        if read_only:
            await _give_up(conn, pooled)
            raise ReadOnlySession(address)
        if pooled:
            await _require_session_pooling(database, address)
        try:
            schema = await queries.set_for_session(conn, session_settings(database))
        except asyncpg.PostgresError as error:
            raise DatabaseUnusable(f"Postgres refuses a setting that DATABASE_URL names: {error}") from error
        if database.schema is not None and schema not in (None, database.schema):
            raise SchemaLost(database.schema, str(schema))
    except BaseException:
        conn.terminate()
        raise
    return conn


def _keep_alive(sock: Any, parameters: Mapping[str, str]) -> None:
    on = parameters.get("keepalives", "1") != "0"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(on))
    for name, option in _TCP_OPTIONS.items():
        value = int(parameters.get(name, "0"))
        if value > 0 and (on or not name.startswith("keepalives")) and hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _give_up(conn: "asyncpg.Connection[asyncpg.Record]", pooled: bool) -> None:
    """End a read-only session on the server's side if it is pooled.

    The pooler would hand it out again and again.
    """
    if pooled:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            await queries.end_own_backend(conn)


async def _require_session_pooling(database: DatabaseUrl, address: Address) -> None:
    """Raise ``TransactionPooling`` if two connections share a server session, or one moves between two."""
    if (database.dsn, address) in _session_pooled:
        return
    with suppress(TimeoutError):  # the connections wait for a free session, which happens only in session mode
        async with (
            asyncio.timeout(_PROOF_TIMEOUT_S),
            _probe(database, address) as first,
            _probe(database, address) as other,
        ):
            for _ in range(_PROOF_ROUNDS):
                try:
                    seen = {await queries.backend_pid(first), await queries.backend_pid(first)}
                    async with other.transaction():
                        shared = await queries.backend_pid(other) in seen
                        seen.add(await queries.backend_pid(first))
                except asyncpg.PostgresConnectionError as error:
                    if "statement pooling" in str(error):  # PgBouncer closes the connection on a BEGIN in that mode
                        raise TransactionPooling(address) from None
                    raise
                if shared or len(seen) > 1:
                    raise TransactionPooling(address)
    _session_pooled.add((database.dsn, address))


@asynccontextmanager
async def _probe(database: DatabaseUrl, address: Address) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a connection that leaves no prepared statement behind."""
    arguments = asyncpg_arguments(parts_of(database.dsn), address, "relay start")
    conn = await asyncpg.connect(**arguments, statement_cache_size=0)
    try:
        yield conn
    finally:
        conn.terminate()
