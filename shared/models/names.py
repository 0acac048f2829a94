"""Names that clients choose, and the instants they are shown: the types of their fields, with limits and examples."""

from typing import Annotated, Final

import msgspec

# \Z, not $: $ also matches before a trailing line break.
_ROOM = r"\A[A-Za-z0-9._:-]{1,128}\Z"
_IDENTITY = r"\A[A-Za-z0-9._:@-]{1,128}\Z"
# Something to see, and no control characters, line breaks or what turns the direction of text around. What keys and projects
# are called: shared/names.py.
PRINTABLE: Final = (
    r"\A[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*[^\s\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
    r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"
)
# What a pattern says, for error messages: nobody should have to read one.
IN_WORDS: Final = {
    PRINTABLE: "printable characters, at least one of them no blank",
    _ROOM: "1 to 128 letters, digits, `.`, `_`, `-` or `:`",
    _IDENTITY: "1 to 128 letters, digits, `.`, `_`, `-`, `:` or `@`",
}

RoomName = Annotated[
    str,
    msgspec.Meta(
        pattern=_ROOM, min_length=1, max_length=128, description="Name of a room in this project.", examples=["lobby"]
    ),
]
Identity = Annotated[
    str,
    msgspec.Meta(
        pattern=_IDENTITY, min_length=1, max_length=128, description="Who takes part in a room.", examples=["ada"]
    ),
]
Timestamp = Annotated[
    str,
    msgspec.Meta(
        description="RFC 3339, UTC, milliseconds.",
        examples=["2026-06-18T12:10:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
