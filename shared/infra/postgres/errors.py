"""What goes wrong with Postgres, in words for an operator: one line for each kind."""

import asyncio
import os
import re
import socket
import ssl

import asyncpg

from shared.errors import RelayError
from shared.infra.postgres.database_url import Address, DatabaseUrl, Parts, parts_of

# Server errors that end with the server's state, not with a mend of ours.
_STARTING = (asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)


class DatabaseUnusable(RelayError, OSError):
    """No usable connection to Postgres. ``passing``: waiting may help, because it cannot be reached yet or is starting.

    It is an ``OSError`` so that what waits for Postgres to come back waits for this too."""

    def __init__(self, line: str, *, passing: bool = False) -> None:
        super().__init__("; ".join(part.strip() for part in line.splitlines()))
        self.passing = passing

    def __str__(self) -> str:
        return str(self.args[0])


class ReadOnlySession(DatabaseUnusable):
    """Postgres answers and takes no writes: a standby, or a primary that was demoted."""

    def __init__(self, address: Address | None = None) -> None:
        where = f" at {address}" if address is not None else ""
        super().__init__(
            f"Postgres{where} is read-only (a standby, or default_transaction_read_only is on): DATABASE_URL must lead to the"
            " primary",
            passing=True,
        )


class TransactionPooling(DatabaseUnusable):
    """A pooler gives each transaction another server session."""

    def __init__(self, address: Address) -> None:
        super().__init__(
            f"DATABASE_URL leads to a pooler in transaction mode ({address}), where locks, LISTEN and the schema of a session"
            " get lost: set pool_mode=session for Relay's database in PgBouncer, use the port of its session mode, or connect"
            " to Postgres directly"
        )


class SchemaLost(DatabaseUnusable):
    """The session does not work in the schema it was told to."""

    def __init__(self, schema: str, actual: str) -> None:
        super().__init__(
            f"the schema {schema!r} of DATABASE_URL is not in force: this session works in {actual!r}. A pooler may have"
            " changed it; connect to Postgres directly"
        )


class SchemaRightMissing(DatabaseUnusable):
    """The role may not make Relay's tables."""

    def __init__(self, role: str, grant: str) -> None:
        super().__init__(
            f"the role {role!r} may not create Relay's tables. As an administrator of the database: {grant}"
        )


# What a query raises while Postgres is away, starting, read-only or busy with somebody else; repeating later is right.
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
    # What asyncpg makes of a query that meets its connection's end, between the server's last words and its hanging up.
    asyncpg.InternalClientError,
)


def connection_problem(
    error: BaseException, address: Address, database: DatabaseUrl, timeout_s: float
) -> DatabaseUnusable:
    """Why connecting to ``address`` failed."""
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
        return DatabaseUnusable(f"Postgres cannot be reached: the host {address.host!r} is not known", passing=True)
    if "rejected SSL upgrade" in str(error):
        return DatabaseUnusable(f"Postgres at {address} offers no TLS, and DATABASE_URL demands it (sslmode)")
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        path = parts.parameters.get(name)
        if path is not None and not os.access(path, os.R_OK):
            return DatabaseUnusable(f"the file of {name} in DATABASE_URL cannot be read: {path}")
    if isinstance(error, PermissionError):
        return DatabaseUnusable(f"Postgres cannot be reached: no permission for {address}")
    if isinstance(error, FileNotFoundError) and address.is_socket:
        return DatabaseUnusable(f"Postgres cannot be reached: there is no socket {address}", passing=True)
    why = "the connection is refused" if _is_refusal(error) else (error.strerror or str(error) or type(error).__name__)
    line = f"Postgres cannot be reached at {address}: {why}. Is it running, and DATABASE_URL set to the right place?"
    return DatabaseUnusable(line, passing=True)


def _is_refusal(error: OSError) -> bool:
    # asyncio puts the attempts at several addresses of a name into one error without a number.
    return isinstance(error, ConnectionRefusedError) or bool(re.search(r"Multiple exceptions:.*refused", str(error)))


def query_problem(error: BaseException) -> str | None:
    """One line for an error of asyncpg's or psycopg's that a command met. None: it is not about Postgres."""
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
