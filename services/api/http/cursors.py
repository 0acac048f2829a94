"""Cursors of pages: opaque to clients, and of use only with the request they came from.

A cursor says at which row of one's own project the next page begins. There is nothing in it to protect, so it is not signed;
it is checked, and one that is malformed, or comes from another request, is refused.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any
from zlib import crc32

import msgspec

from shared.errors import InvalidRequest

_LONGEST = 2_000
Cursor = Annotated[
    str, msgspec.Meta(max_length=_LONGEST, description="Where the next page begins: `nextCursor` of the last one.")
]


def write_cursor(request: Sequence[Any], position: Sequence[Any]) -> str:
    """A cursor for ``position``; ``request`` is what the next request must have in common with this one."""
    body = msgspec.json.encode([crc32(msgspec.json.encode(request)), *position])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def read_cursor(cursor: str | None, request: Sequence[Any], types: Sequence[type]) -> Any:
    """The position in it, None without a cursor. Raises ``InvalidRequest``."""
    if cursor is None:
        return None
    refused = InvalidRequest("cursor is not one that this request answered with", "cursor", "invalid_cursor")
    if len(cursor) > _LONGEST:
        raise refused
    try:
        body = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, *position = msgspec.json.decode(body, type=list[Any])
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        raise refused from None
    if check != crc32(msgspec.json.encode(request)) or [type(part) for part in position] != list(types):
        raise refused
    # What Postgres has no room for: no row's.
    if any("\0" in part if isinstance(part, str) else not -(1 << 62) < part < 1 << 62 for part in position):
        raise refused
    return tuple(position)
