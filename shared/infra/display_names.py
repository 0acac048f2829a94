"""Check the display names of projects, keys and accounts."""

import re
from typing import Final

from shared.errors import InvalidRequest

MAX_NAME_LENGTH: Final = 200
# Postgres stores no NUL. Line breaks, escape sequences and characters that change the direction of text could make a name look
# like something else in a list.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def checked_name(name: str) -> str:
    """Strip a name and check it: 1 to 200 printable characters. Raises ``InvalidRequest`` for ``name``."""
    stripped = name.strip()
    if not 1 <= len(stripped) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"name must have 1 to {MAX_NAME_LENGTH} characters", "name")
    if _UNPRINTABLE.search(stripped):
        raise InvalidRequest("name must not contain control characters", "name")
    return stripped
