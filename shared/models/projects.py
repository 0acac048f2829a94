"""Projects and API keys."""

from datetime import datetime

import msgspec

from shared.ids import KeyType, Mode
from shared.models.wire import Wire


class CreatedKey(Wire):
    """A key right after its creation, the only time its secret exists outside its owner's hands."""

    key_id: str
    key: str
    mode: Mode
    type: KeyType


class CreatedProject(Wire):
    project_id: str
    name: str
    keys: list[CreatedKey]


class Project(Wire):
    project_id: str
    name: str
    created_at: datetime


class KeyInfo(Wire):
    """A key as it may be shown: never its secret."""

    key_id: str
    project_id: str
    name: str
    mode: Mode
    type: KeyType
    last_four: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class KeyRecord(msgspec.Struct, frozen=True):
    """What authentication needs of a key. Times are unix milliseconds."""

    key_id: str
    project_id: str
    mode: Mode
    type: KeyType
    expires_ms: int | None
    revoked_ms: int | None
