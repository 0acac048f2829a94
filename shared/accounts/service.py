"""Operations on accounts and invitations.

Every function takes a connection inside the caller's transaction, and the current time. Passwords are passed as their hashes.
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships as queries
from shared.audit_log import queries as audit_log
from shared.errors import (
    AddressTaken,
    InvitationUnusable,
    LastOwner,
    SignUpClosed,
    TooManyInvitations,
    TooManyProjects,
)
from shared.infra.ids import new_id
from shared.infra.postgres.pool import Connection
from shared.models.accounts import Account, Invitation, Purpose, Role, SignUp, at_least
from shared.models.projects import KeyInfo

INVITATION_LIFETIME = timedelta(days=7)
RESET_LIFETIME = timedelta(hours=24)
# Open links of one kind, of a project or of the instance. The portal lists all of them, so that each can be withdrawn.
MAX_OPEN_INVITATIONS = 100
# Projects that an account owns and has not archived.
MAX_OWNED_PROJECTS = 200


class Actor(NamedTuple):
    """The author of an action: an account, or (``account_id`` None) the command line or an API key."""

    account_id: str | None
    name: str


COMMAND_LINE = Actor(None, "command line")


def api_key(key_id: str) -> Actor:
    """Return the actor for a request with this API key, through `/v1/keys` or `/v1/rooms`."""
    return Actor(None, f"API key {key_id}")


def actor_of(account: Account) -> Actor:
    """Return the actor for an account."""
    return Actor(account.account_id, account.email)


def secret_digest(secret: str) -> bytes:
    """Return the SHA-256 of a link's or cookie's secret.

    Only this is stored. 256 random bits need no salt.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def record(
    conn: Connection,
    actor: Actor,
    action: str,
    now: datetime,
    *,
    project_id: str | None = None,
    target: str = "",
    detail: str = "",
) -> int:
    """Write to the audit log and return the entry's id.

    ``action`` is snake_case and stable, such as ``key_revoked``.
    """
    return await audit_log.insert_entry(
        conn,
        now,
        account_id=actor.account_id,
        actor=actor.name,
        project_id=project_id,
        action=action,
        target=target,
        detail=detail,
    )


async def record_key(conn: Connection, actor: Actor, action: str, key: KeyInfo, now: datetime) -> None:
    """Write an action on a key of a project to the audit log."""
    target, detail = key.name, f"{key.prefix}…{key.last_four}, {key.mode} mode"
    await record(conn, actor, action, now, project_id=key.project_id, target=target, detail=detail)


async def sign_up_is_open(conn: Connection, sign_up: SignUp) -> bool:
    """Return whether a person without an invitation may create an account now."""
    return sign_up == "open" or (sign_up == "first" and not await account_queries.any_account(conn))


async def sign_up(
    conn: Connection,
    email: str,
    name: str,
    password_hash: str,
    now: datetime,
    *,
    rule: SignUp,
    invitation: str | None = None,
) -> Account:
    """Create an account. The first account of an instance becomes its administrator.

    ``invitation`` is the secret of a link, which can be used once. Raises ``SignUpClosed``, ``InvitationUnusable``,
    ``AddressTaken``.
    """
    await account_queries.lock_sign_up(conn)
    first = not await account_queries.any_account(conn)
    if invitation is None and not await sign_up_is_open(conn, rule):
        raise SignUpClosed
    account = Account(new_id(), email, name, is_admin=first, created_at=now)
    if not await account_queries.insert_account(conn, account, password_hash):
        raise AddressTaken
    await record(conn, actor_of(account), "signed_up", now, target=email)
    if invitation is not None:
        await accept_invitation(conn, account, invitation, now)
    return account


async def invite(
    conn: Connection,
    actor: Actor,
    purpose: Purpose,
    now: datetime,
    *,
    project_id: str | None = None,
    role: Role | None = None,
    account_id: str | None = None,
    note: str = "",
) -> str:
    """Create an invitation and return the secret of its link. Raises ``TooManyInvitations``.

    Only the SHA-256 of the secret is stored.
    """
    if purpose != "password":  # only administrators create those, and they are not listed
        await queries.lock_invitations(conn)
        if await queries.count_open_invitations(conn, project_id, purpose, now) >= MAX_OPEN_INVITATIONS:
            raise TooManyInvitations(MAX_OPEN_INVITATIONS)
    secret = secrets.token_urlsafe(32)
    lifetime = RESET_LIFETIME if purpose == "password" else INVITATION_LIFETIME
    await queries.insert_invitation(
        conn,
        new_id(),
        secret_digest(secret),
        purpose,
        project_id=project_id,
        role=role,
        account_id=account_id,
        note=note,
        created_by=actor.account_id,
        now=now,
        expires_at=now + lifetime,
    )
    action = {"sign_up": "instance_invited", "project": "member_invited", "password": "password_link_made"}[purpose]
    await record(conn, actor, action, now, project_id=project_id, target=note, detail=role or "")
    return secret


async def usable_invitation(conn: Connection, secret: str, now: datetime, *, lock: bool = False) -> Invitation:
    """Find an invitation by the secret of its link.

    Raises ``InvitationUnusable`` if it is unknown, used, revoked or expired. The error does not say which.
    """
    found = await queries.invitation_by_digest(conn, secret_digest(secret), now, lock=lock)
    if found is None:
        raise InvitationUnusable
    return found


async def accept_invitation(conn: Connection, account: Account, secret: str, now: datetime) -> Invitation:
    """Accept an invitation to the instance or to a project, and mark it as used.

    A member keeps a role that is already higher. Raises ``InvitationUnusable``.
    """
    invitation = await usable_invitation(conn, secret, now, lock=True)
    if invitation.purpose == "password":
        raise InvitationUnusable
    await queries.use_invitation(conn, invitation.invitation_id, account.account_id, now)
    if invitation.project_id is not None and invitation.role is not None:
        held = await queries.project_access(conn, invitation.project_id, account.account_id, everything=False)
        if held is None:
            await queries.insert_membership(conn, invitation.project_id, account.account_id, invitation.role, now)
        elif not at_least(held.role, invitation.role):
            await queries.set_role(conn, invitation.project_id, account.account_id, invitation.role)
        await record(
            conn,
            actor_of(account),
            "member_joined",
            now,
            project_id=invitation.project_id,
            target=account.email,
            detail=invitation.role,
        )
    return invitation


async def change_password(conn: Connection, account: Account, password_hash: str, now: datetime, keep: bytes) -> int:
    """Set the password, and end every session except ``keep``. Returns how many sessions ended.

    Also revokes all links that can set a password. The caller has locked the account and has compared the hash against which
    the current password was checked.
    """
    await account_queries.set_password(conn, account.account_id, password_hash, now)
    await queries.revoke_password_links(conn, account.account_id, now)
    await record(conn, actor_of(account), "password_changed", now, target=account.email)
    return await account_queries.delete_sessions_of(conn, account.account_id, keep)


async def reset_password(conn: Connection, secret: str, password_hash: str, now: datetime) -> Account:
    """Set the password by a link, and end all sessions and other links of the account.

    Raises ``InvitationUnusable``.
    """
    invitation = await usable_invitation(conn, secret, now)
    found = None
    if invitation.purpose == "password" and invitation.account_id is not None:
        # The account is locked first, so that two links used at the same time wait for each other and cannot deadlock.
        found = await account_queries.lock_credentials(conn, invitation.account_id)
    if found is None:
        raise InvitationUnusable
    await usable_invitation(conn, secret, now, lock=True)
    account = found.account
    await queries.use_invitation(conn, invitation.invitation_id, account.account_id, now)
    await queries.revoke_password_links(conn, account.account_id, now)
    await account_queries.set_password(conn, account.account_id, password_hash, now)
    await account_queries.delete_sessions_of(conn, account.account_id)
    await record(conn, actor_of(account), "password_changed", now, target=account.email, detail="by a link")
    return account


async def change_role(
    conn: Connection, project_id: str, account_id: str, role: Role | None, now: datetime
) -> str | None:
    """Change the role of a member; None removes the member.

    Returns the member's address, or None for a non-member. Revokes the invitations that the member made and could not make with
    the new role. Otherwise a removed member could return through one. Raises ``LastOwner``: a project always has an owner.
    """
    members = await queries.members(conn, project_id, lock=True)
    member = next((member for member in members if member.account_id == account_id), None)
    if member is None:
        return None
    if member.role == "owner" and role != "owner" and sum(other.role == "owner" for other in members) == 1:
        raise LastOwner
    if role is None:
        await queries.delete_membership(conn, project_id, account_id)
    else:
        await queries.set_role(conn, project_id, account_id, role)
    if role != "owner":
        only: Role | None = "owner" if role == "admin" else None
        await queries.revoke_invitations_by(conn, account_id, now, project_id=project_id, only=only)
    return member.email


async def own_new_project(conn: Connection, account_id: str, project_id: str, now: datetime) -> None:
    """Make an account the owner of a new project. Raises ``TooManyProjects``."""
    # Locked, so that projects created at once cannot pass the limit.
    await account_queries.lock_credentials(conn, account_id)
    if await queries.count_owned_projects(conn, account_id) >= MAX_OWNED_PROJECTS:
        raise TooManyProjects(MAX_OWNED_PROJECTS)
    await queries.insert_membership(conn, project_id, account_id, "owner", now)


async def disable(conn: Connection, account_id: str, now: datetime) -> None:
    """Disable an account: nobody can sign in with it, and the links that it made stop working."""
    await account_queries.set_disabled(conn, account_id, now)
    await account_queries.delete_sessions_of(conn, account_id)
    await queries.revoke_invitations_by(conn, account_id, now)


async def set_admin(conn: Connection, account_id: str, given: bool, now: datetime) -> None:
    """Give an account the administration of the instance, or take it away.

    Taking it away revokes all links that the account made: for passwords of others, for sign-up, for other people's projects.
    Links to the account's own projects are revoked too; it can create those again.
    """
    await account_queries.set_admin(conn, account_id, given)
    if not given:
        await queries.revoke_invitations_by(conn, account_id, now)
