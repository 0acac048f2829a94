"""Accounts of the portal, their sessions, roles and invitations."""

from datetime import datetime
from typing import Final, Literal, NamedTuple, get_args

import msgspec

Role = Literal["owner", "admin", "viewer"]
SignUp = Literal["first", "open", "invite"]
SIGN_UPS: Final[tuple[SignUp, ...]] = get_args(SignUp)
Purpose = Literal["sign_up", "project", "password"]
ROLES: Final[tuple[Role, Role, Role]] = ("owner", "admin", "viewer")
_RANK: Final[dict[Role, int]] = {"viewer": 0, "admin": 1, "owner": 2}


def at_least(role: Role, needed: Role) -> bool:
    """Return whether ``role`` has all rights of ``needed``."""
    return _RANK[role] >= _RANK[needed]


class Account(msgspec.Struct, frozen=True):
    account_id: str
    email: str
    name: str
    is_admin: bool
    created_at: datetime
    disabled_at: datetime | None = None


class Credentials(NamedTuple):
    """The fields of an account that are needed to sign in."""

    account: Account
    password_hash: str


class BrowserSession(msgspec.Struct, frozen=True):
    """A signed-in browser. ``digest`` is the SHA-256 of the id in its cookie."""

    digest: bytes
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    address: str
    user_agent: str


class Member(NamedTuple):
    account_id: str
    email: str
    name: str
    role: Role
    created_at: datetime


class ProjectAccess(NamedTuple):
    """A project as one account may use it."""

    project_id: str
    name: str
    role: Role
    created_at: datetime
    archived_at: datetime | None


class Invitation(NamedTuple):
    invitation_id: str
    purpose: Purpose
    project_id: str | None
    project_name: str | None
    role: Role | None
    account_id: str | None
    note: str
    invited_by: str | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    used_by: str | None
    revoked_at: datetime | None


class LogEntry(NamedTuple):
    """An entry of the audit log. ``actor``: the e-mail address at that time.

    ``detail``: a sentence or empty.
    """

    entry_id: int
    at: datetime
    actor: str
    project_id: str | None
    action: str
    target: str
    detail: str


class ProjectRow(NamedTuple):
    """A project in the list of all projects. ``keys`` counts the keys that are not revoked."""

    project_id: str
    name: str
    created_at: datetime
    archived_at: datetime | None
    members: int
    keys: int
