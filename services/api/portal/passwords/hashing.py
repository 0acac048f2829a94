"""Hash passwords with argon2id in threads, a few at a time.

One hash takes 19 MiB and tens of milliseconds of a core.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from shared.errors import RelayError

T = TypeVar("T")
# From OWASP's password storage cheat sheet: argon2id with 19 MiB, two passes, one lane.
_MEMORY_KIB, _PASSES, _LANES = 19_456, 2, 1
_AT_ONCE, _WAITING = 2, 32
# The share of clients that have not signed in before, and how many of one such address may wait.
_UNKNOWN_AT_ONCE, _WAITING_OF_ADDRESS = 1, 4


class TooBusy(RelayError):
    """The queue of passwords to check is full."""

    def __init__(self) -> None:
        super().__init__("too many people are signing in right now; try again in a few seconds")


class Passwords:
    """Hashes and checks passwords. Raises ``TooBusy`` when its queue is full.

    Clients that have not signed in before (``unknown``, their address) share one thread and a separate queue, so a flood of
    them does not delay the others. ``hasher``: argon2id with the parameters above unless given.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(_PASSES, _MEMORY_KIB, _LANES, type=Type.ID)
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._unknown_free = asyncio.Semaphore(_UNKNOWN_AT_ONCE)
        # The number of waiting requests: known clients under None, others under their address.
        self._waiting: Counter[str | None] = Counter()
        # Checked if the account does not exist, so that both cases take the same time.
        self._dummy_hash: str | None = None

    async def hash(self, password: str, unknown: str | None = None) -> str:
        return await self._in_thread(unknown, self._hasher.hash, password)

    async def matches(self, password_hash: str | None, password: str, unknown: str | None = None) -> bool:
        """Return whether the password is right.

        ``password_hash`` None: the account does not exist. The check takes the same time.
        """
        if password_hash is None:
            if self._dummy_hash is None:
                self._dummy_hash = await self.hash("the password of no account", unknown)
            await self._in_thread(unknown, self._verify, self._dummy_hash, password)
            return False
        return await self._in_thread(unknown, self._verify, password_hash, password)

    def is_outdated(self, password_hash: str) -> bool:
        """Return whether the hash was created with other parameters than the current ones."""
        return self._hasher.check_needs_rehash(password_hash)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, unknown: str | None, work: Callable[..., T], *arguments: str) -> T:
        waiting = self._waiting
        of_lane = waiting[None] if unknown is None else waiting.total() - waiting[None]
        if of_lane >= _WAITING or (unknown is not None and waiting[unknown] >= _WAITING_OF_ADDRESS):
            raise TooBusy
        waiting[unknown] += 1
        try:
            async with nullcontext() if unknown is None else self._unknown_free, self._free:
                return await asyncio.to_thread(work, *arguments)
        finally:
            waiting[unknown] -= 1
            if not waiting[unknown]:
                del waiting[unknown]
