"""Passwords, hashed by argon2id in threads, a few at a time: each takes 19 MiB and tens of milliseconds of a core."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from shared.errors import RelayError

T = TypeVar("T")
MIN_LENGTH, MAX_LENGTH = 10, 256
# OWASP's password storage cheat sheet: argon2id with 19 MiB, two passes, one lane.
_MEMORY_KIB, _PASSES, _LANES = 19_456, 2, 1
_AT_ONCE, _WAITING = 2, 32


class TooBusy(RelayError):
    """More passwords are being checked than this process will queue."""

    def __init__(self) -> None:
        super().__init__("too many people are signing in at this moment; try again in a few seconds")


def objection_to(password: str, email: str) -> str | None:
    """What is wrong with a new password, if anything."""
    if len(password) < MIN_LENGTH:
        return f"Use at least {MIN_LENGTH} characters."
    if len(password) > MAX_LENGTH:
        return f"Use at most {MAX_LENGTH} characters."
    if len(set(password)) < 4:
        return "Use more than three different characters."
    lowered = password.lower()
    if lowered in (email.lower(), email.lower().partition("@")[0]) or lowered.strip("0123456789!") in (
        "password",
        "relay",
    ):
        return "That is easy to guess. Use several words, or let a password manager choose."
    return None


class Passwords:
    """Hashes and checks. Raises ``TooBusy`` rather than queue without bound."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(_PASSES, _MEMORY_KIB, _LANES, type=Type.ID)
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        # Checked where there is no account, so that the time of the answer does not tell.
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        return await self._in_thread(self._hasher.hash, password)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password; None stands for an account that does not exist and costs the same time."""
        if password_hash is None:
            if self._nobodys is None:
                self._nobodys = await self.hash("nobody's password")
            await self._in_thread(self._verify, self._nobodys, password)
            return False
        return await self._in_thread(self._verify, password_hash, password)

    def is_outdated(self, password_hash: str) -> bool:
        """Whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= _WAITING:
            raise TooBusy
        self._waiting += 1
        try:
            async with self._free:
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._waiting -= 1
