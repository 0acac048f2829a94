"""API keys over the API: what clients ask for and what they are answered."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from shared.infra.clock import rfc3339
from shared.infra.ids import KeyType, Mode
from shared.models.names import PRINTABLE, Timestamp
from shared.models.projects import KeyInfo, NewKey
from shared.models.wire import Request, Wire

KeyName = Annotated[
    str,
    Meta(
        pattern=PRINTABLE,
        min_length=1,
        max_length=200,
        description="To tell keys apart.",
        examples=["server, Frankfurt"],
    ),
]
State = Literal["active", "expired", "revoked"]


class CreateKey(Request):
    """A key of the same project and mode as the one that asks. It expires no later than that one."""

    name: KeyName
    type: KeyType = "secret"
    expires_at: Annotated[datetime, Meta(tz=True, description="When it stops working; never without it.")] | None = None


class RotateKey(Request):
    """``grace_seconds``: how long the old key works on beside the new one; 0 revokes it at once."""

    grace_seconds: Annotated[int, Meta(ge=0, le=2_592_000)] = 86_400


class RenameKey(Request):
    name: KeyName


class KeyAnswer(Wire):
    """A key as it may be shown. ``current``: it is the one that asks. ``created_by``: ``key:`` and the id of the key that
    made it over the API, else who did."""

    key_id: str
    name: str
    mode: Mode
    type: KeyType
    prefix: str
    last_four: str
    state: State
    current: bool
    created_at: Timestamp
    created_by: str | None
    last_used_at: Timestamp | None
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    rotated_to: str | None


class NewKeyAnswer(KeyAnswer, kw_only=True):
    """``key`` is the secret, in no other answer."""

    key: str


class KeyPage(Wire):
    """Newest first; ``next_cursor`` asks for those before."""

    keys: list[KeyAnswer]
    next_cursor: str | None = None


class RevokedKeys(Wire):
    """The key that was meant first, then those that were made with it, if they were to go too."""

    revoked: list[KeyAnswer]


def key_answer(info: KeyInfo, asking_key_id: str, now: datetime) -> KeyAnswer:
    return KeyAnswer(**_fields(info, asking_key_id, now))


def new_key_answer(key: NewKey, asking_key_id: str, now: datetime) -> NewKeyAnswer:
    return NewKeyAnswer(key=key.key, **_fields(key, asking_key_id, now))


def _fields(info: KeyInfo, asking_key_id: str, now: datetime) -> dict[str, Any]:
    return {
        "key_id": info.key_id,
        "name": info.name,
        "mode": info.mode,
        "type": info.type,
        "prefix": info.prefix,
        "last_four": info.last_four,
        "state": info.state(now),
        "current": info.key_id == asking_key_id,
        "created_at": _shown(info.created_at),
        "created_by": info.created_by,
        "last_used_at": _shown(info.last_used_at),
        "expires_at": _shown(info.expires_at),
        "revoked_at": _shown(info.revoked_at),
        "rotated_to": info.rotated_to,
    }


def _shown(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(round(at.timestamp() * 1000))
