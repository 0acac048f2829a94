"""Errors of Postgres, each with one line for an operator."""

import asyncio
import os
import re
import socket
import ssl

import asyncpg

from shared.errors import RelayError
from shared.infra.postgres.database_url import Address, DatabaseUrl, Parts, parts_of

# Errors that end when the state of the server changes.
_STARTING = (asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)


class DatabaseUnusable(RelayError, OSError):
    """There is no usable connection to Postgres.

    ``passing``: waiting may help, because Postgres cannot be reached yet or is starting. This is an ``OSError``, so that code
    that waits for Postgres to come back handles it too.
    """

    def __init__(self, line: str, *, passing: bool = False) -> None:
        super().__init__("; ".join(part.strip() for part in line.splitlines()))
        self.passing = passing

    def __str__(self) -> str:
        return str(self.args[0])


class ReadOnlySession(DatabaseUnusable):
    """Postgres answers but accepts no writes: a standby, or a primary that was demoted."""

    def __init__(self, address: Address | None = None) -> None:
        where = f" at {address}" if address is not None else ""
        super().__init__(
            f"Postgres{where} is read-only (a standby, or default_transaction_read_only is on): DATABASE_URL must lead to the"
            " primary",
            passing=True,
        )


class TransactionPooling(DatabaseUnusable):
    """A pooler may use another server session for each transaction."""

    def __init__(self, address: Address) -> None:
        super().__init__(
            f"DATABASE_URL leads to a pooler in transaction mode ({address}), where locks, LISTEN and the schema of a session"
            " get lost: set pool_mode=session for Relay's database in PgBouncer, use the port of its session mode, or connect"
            " to Postgres directly"
        )


class SchemaLost(DatabaseUnusable):
    """The session does not use the schema of DATABASE_URL."""

    def __init__(self, schema: str, actual: str) -> None:
        super().__init__(
            f"the schema {schema!r} of DATABASE_URL is not in use: this session uses {actual!r}. A pooler may have"
            " changed it; connect to Postgres directly"
        )


class SchemaRightMissing(DatabaseUnusable):
    """The role may not create Relay's tables."""

    def __init__(self, role: str, grant: str) -> None:
        super().__init__(
            f"the role {role!r} may not create Relay's tables. As an administrator of the database: {grant}"
        )


# What a query raises while Postgres is away, starting, read-only or overloaded. The caller should try again later.
UNAVAILABLE = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    *_STARTING,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    # Serialization failures and deadlocks.
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
    # asyncpg raises this for a query on a connection that the server is just closing.
    asyncpg.InternalClientError,
)


def connection_problem(
    error: BaseException, address: Address, database: DatabaseUrl, timeout_s: float
) -> DatabaseUnusable:
    """Turn the error of a connection attempt to ``address`` into one line."""
    if isinstance(error, DatabaseUnusable):
        return error
    parts = parts_of(database.dsn)
    if isinstance(error, asyncpg.PostgresError):
        return _refused_by_server(error, address, parts)
    if isinstance(error, TimeoutError):
        line = f"Postgres cannot be reached: {address} did not answer within {timeout_s:g} s (a firewall, or the wrong host?)"
        return DatabaseUnusable(line, passing=True)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return DatabaseUnusable(f"DATABASE_URL cannot be used: {error}")
    if isinstance(error, OSError):
        return _not_reached(error, address, parts)
    return DatabaseUnusable(
        f"Postgres at {address} does not answer as Postgres does ({type(error).__name__})", passing=True
    )


def _refused_by_server(error: asyncpg.PostgresError, address: Address, parts: Parts) -> DatabaseUnusable:
    user = parts.user or "of this process"
    match error:
        case asyncpg.CannotConnectNowError() | asyncpg.AdminShutdownError() | asyncpg.CrashShutdownError():
            return DatabaseUnusable(f"Postgres at {address} is starting up or shutting down ({error})", passing=True)
        case asyncpg.TooManyConnectionsError():
            return DatabaseUnusable(
                f"Postgres at {address} has no connection left ({error}): raise max_connections, or stop what else uses it"
            )
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidCatalogNameError():
            return DatabaseUnusable(f"Postgres refuses DATABASE_URL: {error}")
        case asyncpg.InsufficientPrivilegeError():
            grant = f'GRANT CONNECT ON DATABASE "{parts.database or user}" TO "{user}"'
            return DatabaseUnusable(f"Postgres refuses DATABASE_URL: {error}. As an administrator: {grant}")
    return DatabaseUnusable(f"Postgres at {address} refuses the connection: {error}")


def _not_reached(error: OSError, address: Address, parts: Parts) -> DatabaseUnusable:
    if isinstance(error, ssl.SSLCertVerificationError):
        return DatabaseUnusable(
            f"the certificate of {address} does not verify ({error.verify_message}): name the CA that signed it in"
            " sslrootcert, and the host as the certificate names it"
        )
    if isinstance(error, ssl.SSLError):
        return DatabaseUnusable(
            f"TLS with {address} fails ({error.reason or error}): check the ssl parameters of DATABASE_URL"
        )
    if isinstance(error, socket.gaierror):
        return DatabaseUnusable(f"Postgres cannot be reached: the host {address.host!r} is unknown", passing=True)
    if "rejected SSL upgrade" in str(error):
        return DatabaseUnusable(f"Postgres at {address} offers no TLS, and DATABASE_URL requires it (sslmode)")
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        path = parts.parameters.get(name)
        if path is not None and not os.access(path, os.R_OK):
            return DatabaseUnusable(f"the file of {name} in DATABASE_URL cannot be read: {path}")
    if isinstance(error, PermissionError):
        return DatabaseUnusable(f"Postgres cannot be reached: no permission for {address}")
    if isinstance(error, FileNotFoundError) and address.is_socket:
        return DatabaseUnusable(f"Postgres cannot be reached: there is no socket {address}", passing=True)
    why = "the connection is refused" if _is_refusal(error) else (error.strerror or str(error) or type(error).__name__)
    line = f"Postgres cannot be reached at {address}: {why}. Is it running, and is DATABASE_URL right?"
    return DatabaseUnusable(line, passing=True)


def _is_refusal(error: OSError) -> bool:
    # asyncio combines the attempts for several addresses of a name in one error without a number.
    return isinstance(error, ConnectionRefusedError) or bool(re.search(r"Multiple exceptions:.*refused", str(error)))


def query_problem(error: BaseException) -> str | None:
    """Turn an error of asyncpg or psycopg into one line. None if it is not about Postgres."""
    if isinstance(error, RelayError):
        return str(error)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return str(ReadOnlySession())
    code = getattr(error, "sqlstate", None)
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError) or code in ("42P01", "42703"):
        return "the database has no tables yet, or those of an older Relay; run `relay migrate`"
    if isinstance(error, asyncpg.InsufficientPrivilegeError) or code == "42501":
        return f"Postgres refuses: {_first_line(error)}. The role of DATABASE_URL needs all rights on Relay's tables"
    if isinstance(error, TimeoutError):
        return "Postgres did not answer in time; try again"
    if isinstance(error, asyncpg.PostgresError) or type(error).__module__.startswith("psycopg"):
        return f"Postgres cannot do this: {_first_line(error)}"
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return "the connection to Postgres broke; try again"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
