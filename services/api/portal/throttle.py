"""Limits of password attempts. Counted in Postgres, which sign-in needs anyway, so they hold without Redis and over processes.

In a window of 15 minutes an attempt counts for the account from this address (10), the account from anywhere (100) and the
address for any account (100). A refused attempt counts for nothing, so one address can use up at most 10 of an account's 100.
A browser that has signed in to the account before, or an address from which somebody is signed in to it, counts separately:
nobody else can lock it out. A reset link clears the account's count.
"""

import hashlib
from datetime import datetime, timedelta

from services.api.http.access.unknown_key_limit import network_of
from shared.accounts.queries import accounts as queries
from shared.errors import RelayError
from shared.infra.postgres.pool import Connection, in_transaction

WINDOW = timedelta(minutes=15)
ACCOUNT_AND_ADDRESS, ACCOUNT, ADDRESS = 10, 100, 100
# Of a known browser, of a known address, of the account page, and of sign-up from one address.
OWN = 10


class TooManyAttempts(RelayError):
    """Too many attempts. The password was not checked."""

    def __init__(self) -> None:
        super().__init__("Too many attempts. Wait 15 minutes, then try again.")


def subjects_of(email: str, address: str) -> dict[bytes, int]:
    """What a sign-in counts for (by SHA-256, so that the table holds no addresses), and the limit of each."""
    network, email = network_of(address), normalized(email)
    return _hashed(
        {f"both {network} {email}": ACCOUNT_AND_ADDRESS, f"account {email}": ACCOUNT, f"address {network}": ADDRESS}
    )


def subjects_of_known(email: str, client: str) -> dict[bytes, int]:
    """The same for a client that has signed in before; ``client`` names the browser or the address."""
    return _hashed({f"known {client} {normalized(email)}": OWN})


def subjects_of_account_page(account_id: str) -> dict[bytes, int]:
    """What an attempt to confirm the present password counts for."""
    return _hashed({f"present {account_id}": OWN})


def subjects_of_sign_up(address: str) -> dict[bytes, int]:
    return _hashed({f"sign up {network_of(address)}": OWN})


def normalized(email: str) -> str:
    # Postgres's lower() finds ivan@… for İvan@…, but Python makes two characters of İ. Its spellings must count together.
    return email.strip().lower().replace("\u0307", "")


def _hashed(named: dict[str, int]) -> dict[bytes, int]:
    return {hashlib.sha256(name.encode("utf-8", "replace")).digest(): limit for name, limit in named.items()}


async def count(conn: Connection, subjects: dict[bytes, int], now: datetime) -> None:
    """Counts an attempt before it is made, so that attempts at the same time cannot pass a limit. Commits. Raises
    ``TooManyAttempts``, and counts nothing then."""
    async with in_transaction(conn):
        counted = await queries.count_attempt(conn, list(subjects), now, WINDOW)
        if any(counted[subject] > limit for subject, limit in subjects.items()):
            raise TooManyAttempts


async def forgive(conn: Connection, subjects: dict[bytes, int]) -> None:
    """Takes an attempt back that succeeded."""
    await queries.forgive_attempt(conn, list(subjects))


async def clear(conn: Connection, email: str) -> None:
    """Forgets all attempts on an account from anywhere: its owner has proved to be the owner by a link."""
    await queries.delete_attempts(conn, list(_hashed({f"account {normalized(email)}": 0})))
