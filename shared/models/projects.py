"""Projects and API keys."""

from datetime import datetime

import msgspec

from shared.infra.ids import KeyType, Mode
from shared.models.wire import Wire


class CreatedKey(Wire):
    """A key of a new project, with its secret. Relay does not store the secret."""

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
    archived_at: datetime | None = None


class KeyInfo(Wire):
    """A key without its secret.

    ``prefix`` is like ``sk_live_``. ``last_used_at`` is to the minute. ``rotated_to`` is the id of the key that replaced it.
    ``created_by`` is ``key:<id>`` for a key created with another key.
    """

    key_id: str
    project_id: str
    name: str
    mode: Mode
    type: KeyType
    prefix: str
    last_four: str
    created_at: datetime
    created_by: str | None = None
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    rotated_to: str | None = None

    def state(self, now: datetime) -> str:
        """``active``, ``revoked`` or ``expired``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class NewKey(KeyInfo, kw_only=True):
    """A key right after its creation, with its secret, which is shown this once."""

    key: str


class KeyRecord(msgspec.Struct, frozen=True):
    """What authentication needs of a key. Times are unix milliseconds."""

    key_id: str
    project_id: str
    mode: Mode
    type: KeyType
    expires_ms: int | None
    revoked_ms: int | None
    archived: bool = False
