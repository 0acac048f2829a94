"""What people call things."""

import re
from typing import Final

from shared.errors import InvalidRequest

MAX_NAME_LENGTH: Final = 200
# Postgres takes no NUL; and a line break, an escape sequence or what turns the direction of text around in a name would lie
# to whoever lists names.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def checked_name(name: str) -> str:
    """The name without blanks around it: 1 to 200 printable characters. Raises ``InvalidRequest`` on ``name``."""
    stripped = name.strip()
    if not 1 <= len(stripped) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"name must have 1 to {MAX_NAME_LENGTH} characters", "name")
    if _UNPRINTABLE.search(stripped):
        raise InvalidRequest("name must not contain control characters", "name")
    return stripped
