"""Limits for password attempts.

They are counted in Postgres, so they hold without Redis and across processes. Within 15 minutes an attempt counts for the
account from this address (10), the account from any address (100) and the address for any account (100). A refused attempt does
not count, so one address can use at most 10 of an account's 100. A browser that has signed in to the account before, or an
address from which somebody is signed in to it, is counted separately: nobody else can lock it out. A reset link clears the
count of the account.
"""

import hashlib
from datetime import datetime, timedelta

from services.api.http.access.unknown_key_limit import network_of
from shared.accounts.queries import accounts as queries
from shared.errors import RelayError
from shared.infra.postgres.pool import Connection

WINDOW = timedelta(minutes=15)
ACCOUNT_AND_ADDRESS, ACCOUNT, ADDRESS = 10, 100, 100
# The limit of a known browser, a known address, the account page, and sign-up from one address.
OWN = 10


class TooManyAttempts(RelayError):
    """Too many attempts. The password was not checked."""

    def __init__(self) -> None:
        super().__init__("Too many attempts. Wait 15 minutes, then try again.")


def subjects_of(email: str, address: str) -> dict[bytes, int]:
    """Return the subjects that a sign-in counts for, with the limit of each.

    Subjects are SHA-256 hashes, so that the table holds no addresses.
    """
    network, email = network_of(address), normalized(email)
    return _hashed(
        {f"both {network} {email}": ACCOUNT_AND_ADDRESS, f"account {email}": ACCOUNT, f"address {network}": ADDRESS}
    )


def subjects_of_known(email: str, client: str) -> dict[bytes, int]:
    """Return the subjects for a client that has signed in before.

    ``client`` identifies the browser or the address.
    """
    return _hashed({f"known {client} {normalized(email)}": OWN})


def subjects_of_account_page(account_id: str) -> dict[bytes, int]:
    """Return the subjects that an attempt to confirm the current password counts for."""
    return _hashed({f"present {account_id}": OWN})


def subjects_of_sign_up(address: str) -> dict[bytes, int]:
    """Return the subjects that a sign-up counts for."""
    return _hashed({f"sign up {network_of(address)}": OWN})


def normalized(email: str) -> str:
    """Return an address in the form in which attempts on it are counted."""
    # Postgres' lower() converts İ to i, Python's to two characters. Both forms must count together.
    return email.strip().lower().replace("\u0307", "")


def _hashed(named: dict[str, int]) -> dict[bytes, int]:
    return {hashlib.sha256(name.encode("utf-8", "replace")).digest(): limit for name, limit in named.items()}


async def count(conn: Connection, subjects: dict[bytes, int], now: datetime) -> None:
    """Count an attempt.

    The caller commits before it checks the password, so that simultaneous attempts cannot exceed a limit. Raises
    ``TooManyAttempts``. The caller then rolls back, so that the attempt does not count.
    """
    counted = await queries.count_attempt(conn, list(subjects), now, WINDOW)
    if any(counted[subject] > limit for subject, limit in subjects.items()):
        raise TooManyAttempts


async def forgive(conn: Connection, subjects: dict[bytes, int]) -> None:
    """Undo the count of an attempt that succeeded."""
    await queries.forgive_attempt(conn, list(subjects))


async def clear(conn: Connection, email: str) -> None:
    """Delete the count of an account's attempts, because its owner used a reset link."""
    await queries.delete_attempts(conn, list(_hashed({f"account {normalized(email)}": 0})))
