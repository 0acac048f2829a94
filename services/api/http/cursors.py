"""Encode and decode page cursors, which are opaque and valid only for the request they came from.

A cursor holds the position in the client's own project at which the next page begins. That is not a secret, so a cursor is not
signed. A malformed cursor, or one of another request, is refused.
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
    str,
    msgspec.Meta(max_length=_LONGEST, description="Start of the page: `nextCursor` of the previous answer."),
]
NextCursor = Annotated[
    str, msgspec.Meta(description="Send it as `cursor` to get the next page. Null or absent on the last page.")
]


def write_cursor(request: Sequence[Any], position: Sequence[Any]) -> str:
    """Return a cursor for ``position``. It is valid only with the same values of ``request``."""
    body = msgspec.json.encode([crc32(msgspec.json.encode(request)), *position])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def read_cursor(cursor: str | None, request: Sequence[Any], types: Sequence[type]) -> Any:
    """Return the position in a cursor, or None without a cursor. Raises ``InvalidRequest``."""
    if cursor is None:
        return None
    refused = InvalidRequest("`cursor` belongs to another request. Start again without it.", "cursor", "invalid_cursor")
    if len(cursor) > _LONGEST:
        raise refused
    try:
        body = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, *position = msgspec.json.decode(body, type=list[Any])
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        raise refused from None
    if check != crc32(msgspec.json.encode(request)) or [type(part) for part in position] != list(types):
        raise refused
    # Postgres allows no NUL in text and no larger bigint, so no row has such a position.
    if any("\0" in part if isinstance(part, str) else not -(1 << 62) < part < 1 << 62 for part in position):
        raise refused
    return tuple(position)
