"""SQL of accounts, browser sessions and sign-in attempts."""

from datetime import datetime, timedelta

import asyncpg

from shared.infra.postgres.pool import Connection
from shared.models.accounts import Account, BrowserSession, Credentials

_ACCOUNT = "a.id, a.email, a.name, a.is_admin, a.created_at, a.disabled_at"
_SESSION = "s.digest, s.created_at AS session_created_at, s.seen_at, s.expires_at, s.address, s.user_agent"
# Held while an account is created, so that only one of two first sign-ups finds an empty instance.
_SIGN_UP_LOCK = 0x52454C4159
_RIGHTS_LOCK = _SIGN_UP_LOCK + 1


def _account(row: "asyncpg.Record") -> Account:
    return Account(row["id"], row["email"], row["name"], row["is_admin"], row["created_at"], row["disabled_at"])


def _session(row: "asyncpg.Record") -> BrowserSession:
    return BrowserSession(
        row["digest"], row["session_created_at"], row["seen_at"], row["expires_at"], row["address"], row["user_agent"]
    )


async def lock_sign_up(conn: Connection) -> None:
    """Lock sign-up: until the transaction ends, nobody else can create an account."""
    await conn.execute("SELECT pg_advisory_xact_lock($1)", _SIGN_UP_LOCK)


async def any_account(conn: Connection) -> bool:
    """Return whether the instance has an account."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM account)"))


async def insert_account(conn: Connection, account: Account, password_hash: str) -> bool:
    """Insert an account. Returns False, without a change, if the address already has one."""
    done = await conn.execute(
        """
        INSERT INTO account (id, email, name, password_hash, is_admin, created_at, password_changed_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6)
        ON CONFLICT (lower(email)) DO NOTHING
        """,
        account.account_id,
        account.email,
        account.name,
        password_hash,
        account.is_admin,
        account.created_at,
    )
    return done == "INSERT 0 1"


async def account_by_id(conn: Connection, account_id: str) -> Account | None:
    """Return an account by its id."""
    row = await conn.fetchrow(f"SELECT {_ACCOUNT} FROM account a WHERE a.id = $1", account_id)
    return None if row is None else _account(row)


async def list_accounts(conn: Connection) -> list[Account]:
    """Return all accounts, oldest first."""
    return [_account(row) for row in await conn.fetch(f"SELECT {_ACCOUNT} FROM account a ORDER BY a.created_at, a.id")]


async def count_admins(conn: Connection) -> int:
    """Count and lock the administrators who can sign in, so that two cannot resign at the same time."""
    rows = await conn.fetch("SELECT id FROM account WHERE is_admin AND disabled_at IS NULL FOR UPDATE")
    return len(rows)


async def credentials(conn: Connection, email: str) -> Credentials | None:
    """Return an account and its password hash, by address. Upper and lower case are the same."""
    row = await conn.fetchrow(
        f"SELECT {_ACCOUNT}, a.password_hash FROM account a WHERE lower(a.email) = lower($1)", email
    )
    return None if row is None else Credentials(_account(row), row["password_hash"])


async def lock_credentials(conn: Connection, account_id: str) -> Credentials | None:
    """Return an account and its password hash, and lock the account until the transaction ends.

    So what the caller checks stays true for the transaction.
    """
    row = await conn.fetchrow(
        f"SELECT {_ACCOUNT}, a.password_hash FROM account a WHERE a.id = $1 FOR NO KEY UPDATE", account_id
    )
    return None if row is None else Credentials(_account(row), row["password_hash"])


async def addresses_of_sessions(conn: Connection, email: str, now: datetime) -> list[str]:
    """Return the client addresses of the account's sessions, at most 100."""
    rows = await conn.fetch(
        "SELECT DISTINCT s.address FROM portal_session s JOIN account a ON a.id = s.account_id"
        " WHERE lower(a.email) = lower($1) AND s.expires_at > $2 LIMIT 100",
        email,
        now,
    )
    return [row["address"] for row in rows]


async def lock_rights(conn: Connection, *, exclusive: bool) -> None:
    """Lock the rights of accounts, so that the rights that a transaction reads are valid until it ends.

    A transaction that depends on rights takes this lock first; one that removes rights takes it ``exclusive``.
    """
    shared = "" if exclusive else "_shared"
    await conn.execute(f"SELECT pg_advisory_xact_lock{shared}($1)", _RIGHTS_LOCK)


async def set_password(conn: Connection, account_id: str, password_hash: str, now: datetime) -> None:
    """Set a new password."""
    await conn.execute(
        "UPDATE account SET password_hash = $2, password_changed_at = $3 WHERE id = $1", account_id, password_hash, now
    )


async def set_password_hash(conn: Connection, account_id: str, password_hash: str) -> None:
    """Replace the hash of the same password, for example after the hash parameters changed."""
    await conn.execute("UPDATE account SET password_hash = $2 WHERE id = $1", account_id, password_hash)


async def set_name(conn: Connection, account_id: str, name: str) -> None:
    """Set the display name."""
    await conn.execute("UPDATE account SET name = $2 WHERE id = $1", account_id, name)


async def set_admin(conn: Connection, account_id: str, is_admin: bool) -> None:
    """Make the account an administrator of the instance, or not."""
    await conn.execute("UPDATE account SET is_admin = $2 WHERE id = $1", account_id, is_admin)


async def set_disabled(conn: Connection, account_id: str, at: datetime | None) -> None:
    """Set when the account was disabled; None enables it."""
    await conn.execute("UPDATE account SET disabled_at = $2 WHERE id = $1", account_id, at)


async def insert_session(conn: Connection, account_id: str, session: BrowserSession) -> None:
    """Insert a browser session."""
    await conn.execute(
        """
        INSERT INTO portal_session (digest, account_id, created_at, seen_at, expires_at, address, user_agent)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        session.digest,
        account_id,
        session.created_at,
        session.seen_at,
        session.expires_at,
        session.address,
        session.user_agent,
    )


async def session_by_digest(conn: Connection, digest: bytes, now: datetime) -> tuple[Account, BrowserSession] | None:
    """Return a session and its account, unless the session has expired or the account is disabled."""
    row = await conn.fetchrow(
        f"""
        SELECT {_ACCOUNT}, {_SESSION}
        FROM portal_session s
        JOIN account a ON a.id = s.account_id
        WHERE s.digest = $1
          AND s.expires_at > $2
          AND a.disabled_at IS NULL
        """,
        digest,
        now,
    )
    return None if row is None else (_account(row), _session(row))


async def touch_session(conn: Connection, digest: bytes, now: datetime, expires_at: datetime) -> None:
    """Record that a session was used, and extend it."""
    await conn.execute(
        "UPDATE portal_session SET seen_at = $2, expires_at = $3 WHERE digest = $1", digest, now, expires_at
    )


async def sessions_of(conn: Connection, account_id: str, now: datetime) -> list[BrowserSession]:
    """Return the sessions of an account, most recently used first."""
    rows = await conn.fetch(
        f"""
        SELECT {_SESSION}
        FROM portal_session s
        WHERE s.account_id = $1
          AND s.expires_at > $2
        ORDER BY s.seen_at DESC
        """,
        account_id,
        now,
    )
    return [_session(row) for row in rows]


async def delete_session(conn: Connection, digest: bytes) -> None:
    """Delete one session."""
    await conn.execute("DELETE FROM portal_session WHERE digest = $1", digest)


async def delete_sessions_of(conn: Connection, account_id: str, keep: bytes | None = None) -> int:
    """Delete all sessions of an account except ``keep``, and return how many."""
    done = await conn.execute(
        "DELETE FROM portal_session WHERE account_id = $1 AND digest IS DISTINCT FROM $2", account_id, keep
    )
    return int(done.removeprefix("DELETE "))


async def delete_expired_sessions(conn: Connection, now: datetime) -> None:
    """Delete all expired sessions."""
    await conn.execute("DELETE FROM portal_session WHERE expires_at <= $1", now)


async def count_attempt(conn: Connection, subjects: list[bytes], now: datetime, window: timedelta) -> dict[bytes, int]:
    """Count one attempt for each subject.

    Returns the counts of their current windows, this attempt included.
    """
    # In order, so that two attempts that share subjects wait for each other and cannot deadlock.
    rows = await conn.fetch(
        """
        INSERT INTO sign_in_attempt AS s (subject, attempts, window_ends)
        SELECT subject, 1, $3
        FROM unnest($1::bytea[]) AS subject
        ORDER BY subject
        ON CONFLICT (subject)
        DO UPDATE SET
            attempts = CASE WHEN s.window_ends <= $2 THEN 1 ELSE s.attempts + 1 END,
            window_ends = CASE WHEN s.window_ends <= $2 THEN excluded.window_ends ELSE s.window_ends END
        RETURNING subject, attempts
        """,
        subjects,
        now,
        now + window,
    )
    return {row["subject"]: row["attempts"] for row in rows}


async def forgive_attempt(conn: Connection, subjects: list[bytes]) -> None:
    """Subtract one attempt, because it did not fail."""
    await conn.execute(
        """
        UPDATE sign_in_attempt
        SET attempts = greatest(attempts - 1, 0)
        WHERE subject = ANY ($1::bytea[])
        """,
        subjects,
    )


async def delete_attempts(conn: Connection, subjects: list[bytes]) -> None:
    """Delete the counts of these subjects."""
    await conn.execute("DELETE FROM sign_in_attempt WHERE subject = ANY ($1::bytea[])", subjects)


async def delete_past_attempts(conn: Connection, now: datetime) -> None:
    """Delete the counts of windows that have ended."""
    await conn.execute("DELETE FROM sign_in_attempt WHERE window_ends <= $1", now)
