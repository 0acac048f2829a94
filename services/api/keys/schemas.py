"""Parameters, requests and answers of `/v1/keys`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from services.api.http.cursors import Cursor, NextCursor
from services.api.http.query import Query
from shared.infra.clock import rfc3339
from shared.infra.ids import KeyType, Mode
from shared.models.names import PRINTABLE, Timestamp
from shared.models.projects import KeyInfo, NewKey
from shared.models.wire import Request, Wire

MAX_PAGE = 100

KeyId = Annotated[
    str, Meta(pattern=r"\A[a-z0-9]{1,64}\Z", description="`keyId` of a key.", examples=["h7q2m9x4k8t6w3na"])
]
KeyName = Annotated[
    str,
    Meta(
        pattern=PRINTABLE,
        min_length=1,
        max_length=200,
        description="Name by which you recognise the key.",
        examples=["server, Frankfurt"],
    ),
]
TypeOfKey = Annotated[
    KeyType, Meta(description="`secret` keys authorise requests. `publishable` keys only name their project.")
]


class KeyPageQuery(Query):
    """A page of keys."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Keys per page.")] = MAX_PAGE
    cursor: Cursor | None = None


class RevokeKeyQuery(Query):
    """Which keys are revoked together with a key."""

    and_made: Annotated[
        bool, Meta(description="Also revoke every key that it created, and every key that those created.")
    ] = False


class CreateKey(Request):
    """A key of the same project and mode as the key of the request. It expires no later than that one."""

    name: KeyName
    type: TypeOfKey = "secret"
    expires_at: (
        Annotated[datetime, Meta(tz=True, description="When the key expires. Without it the key never expires.")] | None
    ) = None


class RotateKey(Request):
    """How to replace a key."""

    grace_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=2_592_000,
            description="Seconds for which the old key stays valid beside the new one. 0 revokes it at once.",
        ),
    ] = 86_400


class RenameKey(Request):
    """The new name of a key."""

    name: KeyName


class KeyAnswer(Wire):
    """A key without its secret."""

    key_id: Annotated[str, Meta(description="Id of the key in requests. Not a secret.")]
    name: Annotated[str, Meta(description="Name of the key.")]
    mode: Annotated[Mode, Meta(description="`live` or `test`.")]
    type: TypeOfKey
    prefix: Annotated[str, Meta(description="First characters of the key, such as `sk_live_`.")]
    last_four: Annotated[str, Meta(description="Last four characters of the key.")]
    state: Annotated[
        Literal["active", "expired", "revoked"], Meta(description="Whether the key is active, expired or revoked.")
    ]
    current: Annotated[bool, Meta(description="Whether this is the key of the request.")]
    created_at: Annotated[Timestamp, Meta(description="When the key was created.")]
    created_by: Annotated[
        str | None,
        Meta(
            description="What created the key: `key:` and the id of another key, `cli`, or the account in the portal."
        ),
    ]
    last_used_at: Annotated[Timestamp, Meta(description="When the key was last used, to the minute.")] | None
    expires_at: Annotated[Timestamp, Meta(description="When the key expires. Null: never.")] | None
    revoked_at: Annotated[Timestamp, Meta(description="When the key was revoked. Null if it was not.")] | None
    rotated_to: Annotated[str | None, Meta(description="Id of the key that replaced this one.")]


class NewKeyAnswer(KeyAnswer, kw_only=True):
    """A new key with its secret."""

    key: Annotated[str, Meta(description="The secret. No other answer shows it.")]


class KeyPage(Wire):
    """A page of keys."""

    keys: Annotated[list[KeyAnswer], Meta(description="Keys of this page, newest first.")]
    next_cursor: NextCursor | None = None


class RevokedKeys(Wire):
    """The keys that were revoked."""

    revoked: Annotated[
        list[KeyAnswer], Meta(description="The key of the path first, then the keys that were created with it.")
    ]


def key_answer(info: KeyInfo, asking_key_id: str, now: datetime) -> KeyAnswer:
    """Return the answer that shows a key. ``asking_key_id``: the key of the request."""
    return KeyAnswer(**_fields(info, asking_key_id, now))


def new_key_answer(key: NewKey, asking_key_id: str, now: datetime) -> NewKeyAnswer:
    """Return the answer with the secret of a new key. No other answer holds a secret."""
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
