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
    """What a well-formed API key says of itself before anything is looked up."""

    mode: Mode
    type: KeyType
    digest: bytes


class RoomName(NamedTuple):
    """A LiveKit room name of ours, taken apart."""

    project_id: str
    mode: Mode
    display: str


def new_id(length: int = 16) -> str:
    """A random identifier of lower-case letters and digits (5 bits each), without ``_``: room names rely on that."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_KEY_CHECKSUM_LENGTH):
        number, rest = divmod(number, 62)
        digits.append(_BASE62[rest])
    return "".join(reversed(digits))


def key_prefix(mode: Mode, key_type: KeyType) -> str:
    """What keys of this mode and type begin with: ``sk_live_`` or the like."""
    return f"{_PREFIX_OF[key_type]}_{mode}_"


def new_key(mode: Mode, key_type: KeyType) -> str:
    """A fresh API key: its prefix, 190 random bits, six characters of checksum. Shown once, never stored."""
    body = key_prefix(mode, key_type) + "".join(secrets.choice(_BASE62) for _ in range(_KEY_RANDOM_LENGTH))
    return body + _checksum(body)


def key_digest(key: str) -> bytes:
    """SHA-256 of the key, the only form in which the database knows it. 190 random bits need no salt or stretching."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def parse_key(key: str) -> KeyParts | None:
    """The parts of a key whose form and checksum are right, else None. Costs no query, so guessing costs us nothing."""
    match = _KEY.fullmatch(key)
    if match is None or _checksum(key[:-_KEY_CHECKSUM_LENGTH]) != match[4]:
        return None
    mode: Mode = "live" if match[2] == "live" else "test"
    return KeyParts(mode, _TYPE_OF[match[1]], key_digest(key))


def resembles_key(text: str) -> bool:
    """Whether a text that is no key was meant to be one: it begins as our keys do, so it is mistyped or cut off."""
    return _KEY_START.match(text) is not None


def livekit_room(project_id: str, mode: Mode, display: str) -> str:
    """LiveKit's name of a project's room: ``p_<projectId>__lobby`` in live mode, ``t_<projectId>__lobby`` in test mode."""
    return f"{'p' if mode == 'live' else 't'}_{project_id}__{display}"


# Asked of every event, and its room's others are about.
@lru_cache(maxsize=4096)
def parse_livekit_room(name: str) -> RoomName | None:
    """The inverse of ``livekit_room``; None for a room that Relay did not name. A project id holds no ``_``, so the first
    ``__`` ends it whatever the display name contains."""
    match = _ROOM.fullmatch(name)
    if match is None:
        return None
    return RoomName(match[2], "live" if match[1] == "p" else "test", match[3])
