"""Identifiers, API key secrets and LiveKit room names."""

import hashlib
import re
import secrets
import zlib
from functools import lru_cache
from typing import Final, Literal, NamedTuple

Mode = Literal["live", "test"]
KeyType = Literal["secret", "publishable"]
MODES: Final[tuple[Mode, Mode]] = ("live", "test")

_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# 32 characters of base 62 are 190.5 bits.
_KEY_RANDOM_LENGTH = 32
_KEY_CHECKSUM_LENGTH = 6
_KEY = re.compile(r"(sk|pk)_(live|test)_([0-9A-Za-z]{32})([0-9A-Za-z]{6})")
_KEY_START = re.compile(r"(sk|pk)_(live|test)_[0-9A-Za-z]")
_ROOM = re.compile(r"([pt])_([a-z0-9]{8,32})__(.+)", re.DOTALL)
_TYPE_OF: dict[str, KeyType] = {"sk": "secret", "pk": "publishable"}
_PREFIX_OF: dict[KeyType, str] = {"secret": "sk", "publishable": "pk"}


class KeyParts(NamedTuple):
    """The parts of a well-formed API key that are known without a lookup."""

    mode: Mode
    type: KeyType
    digest: bytes


class RoomName(NamedTuple):
    """The parts of a LiveKit room name that Relay created."""

    project_id: str
    mode: Mode
    display: str


def new_id(length: int = 16) -> str:
    """Create a random identifier of lower-case letters and digits (5 bits each).

    It has no ``_``. Room names rely on that.
    """
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_KEY_CHECKSUM_LENGTH):
        number, rest = divmod(number, 62)
        digits.append(_BASE62[rest])
    return "".join(reversed(digits))


def key_prefix(mode: Mode, key_type: KeyType) -> str:
    """Return the prefix of keys of this mode and type, such as ``sk_live_``."""
    return f"{_PREFIX_OF[key_type]}_{mode}_"


def new_key(mode: Mode, key_type: KeyType) -> str:
    """Create an API key: prefix, 190 random bits, checksum of six characters.

    It is shown once and never stored.
    """
    body = key_prefix(mode, key_type) + "".join(secrets.choice(_BASE62) for _ in range(_KEY_RANDOM_LENGTH))
    return body + _checksum(body)


def key_digest(key: str) -> bytes:
    """Return the SHA-256 of a key, the only form that the database stores.

    190 random bits need no salt or stretching.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def parse_key(key: str) -> KeyParts | None:
    """Parse a key; None if its form or checksum is wrong. Needs no query, so guessed keys cost no lookup."""
    match = _KEY.fullmatch(key)
    if match is None or _checksum(key[:-_KEY_CHECKSUM_LENGTH]) != match[4]:
        return None
    mode: Mode = "live" if match[2] == "live" else "test"
    return KeyParts(mode, _TYPE_OF[match[1]], key_digest(key))


def resembles_key(text: str) -> bool:
    """Return whether a text that is not a key begins like one, so that it is probably mistyped or cut off."""
    return _KEY_START.match(text) is not None


def livekit_room(project_id: str, mode: Mode, display: str) -> str:
    """Return the LiveKit room name: ``p_<projectId>__lobby``, or ``t_<projectId>__lobby`` in test mode."""
    return f"{'p' if mode == 'live' else 't'}_{project_id}__{display}"


# Called for every event. Events of the same room follow each other closely.
@lru_cache(maxsize=4096)
def parse_livekit_room(name: str) -> RoomName | None:
    """Invert ``livekit_room``; None for a room that Relay did not name.

    A project id has no ``_``, so the first ``__`` ends it, whatever the display name contains.
    """
    match = _ROOM.fullmatch(name)
    if match is None:
        return None
    return RoomName(match[2], "live" if match[1] == "p" else "test", match[3])
