"""Slows down whoever guesses passwords. Counted in Postgres, which signing in needs anyway, so it holds without Redis too.

Three limits in a window of 15 minutes: an account from one address, an account from anywhere, an address for any account. The
first is small; the second keeps a spread attack slow without letting a stranger lock somebody out with a handful of tries.
"""

import hashlib
from datetime import datetime, timedelta

from services.api.unknown_key_limit import network_of
from shared.errors import RelayError
from shared.postgres import Connection
from shared.queries import accounts as queries

WINDOW = timedelta(minutes=15)
ACCOUNT_AND_ADDRESS, ACCOUNT, ADDRESS = 10, 100, 100


class TooManyAttempts(RelayError):
    """Signing in has failed too often; the password was not even looked at."""

    def __init__(self) -> None:
        super().__init__("Too many attempts. Wait 15 minutes, then try again.")


def subjects_of(email: str, address: str) -> dict[bytes, int]:
    """What an attempt counts for (by SHA-256, so that the table holds no addresses), and the limit of each."""
    # Postgres finds ivan@… for İvan@… too, where Python makes two characters of İ: each of its spellings would count apart.
    network, email = network_of(address), email.strip().lower().replace("\u0307", "")
    named = {f"both {network} {email}": ACCOUNT_AND_ADDRESS, f"account {email}": ACCOUNT, f"address {network}": ADDRESS}
    return {hashlib.sha256(name.encode("utf-8", "replace")).digest(): limit for name, limit in named.items()}


async def count(conn: Connection, subjects: dict[bytes, int], now: datetime) -> None:
    """Counts an attempt before it is made, so that many at once cannot slip through. Commit it whatever comes of it. Raises
    ``TooManyAttempts``."""
    counted = await queries.count_attempt(conn, list(subjects), now, WINDOW)
    if any(counted[subject] > limit for subject, limit in subjects.items()):
        raise TooManyAttempts


async def forgive(conn: Connection, subjects: dict[bytes, int]) -> None:
    """Takes the attempt back after it succeeded."""
    await queries.forgive_attempt(conn, list(subjects))
