"""Field types of names that clients choose and of displayed times, with limits and examples."""

from typing import Annotated, Final

import msgspec

# LiveKit's default limits on room names and identities, in bytes of UTF-8 (livekit-server, config.go: max_room_name_length,
# max_participant_identity_length).
MAX_LIVEKIT_NAME_BYTES: Final = 256
# \Z, not $: $ also matches before a trailing line break.
_ROOM = r"\A[A-Za-z0-9._:-]{1,128}\Z"
# Something to see, and no control characters, line breaks or what turns the direction of text around. What keys and projects
# are called: shared/infra/display_names.py.
# Takes linear time: the blanks at the start match nothing else.
PRINTABLE: Final = (
    r"\A[ \xa0\u1680\u2000-\u200a\u202f\u205f\u3000]*[^\s\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
    r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"
)
# The patterns in words, for error messages.
IN_WORDS: Final = {
    PRINTABLE: "printable characters, at least one of them no blank",
    _ROOM: "1 to 128 letters, digits, `.`, `_`, `-` or `:`",
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
        pattern=PRINTABLE,
        min_length=1,
        max_length=MAX_LIVEKIT_NAME_BYTES,
        description="Participant identity: printable text of at most 256 bytes in UTF-8.",
        examples=["ada"],
    ),
]
# Rooms and participants that exist in LiveKit. SIP, agents and LiveKit's SDKs name them too, so any text is allowed.
ExistingRoom = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_LIVEKIT_NAME_BYTES,
        description=(
            "Name of an open room in this project, percent-encoded (`/` as `%2F`). Any name that LiveKit can hold: at most"
            " 256 bytes in UTF-8 with the project's prefix."
        ),
        examples=["lobby"],
    ),
]
ExistingIdentity = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_LIVEKIT_NAME_BYTES,
        description="Participant identity, percent-encoded (`/` as `%2F`). At most 256 bytes in UTF-8.",
        examples=["ada"],
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
