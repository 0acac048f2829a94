"""SQL of memberships, access to projects, and invitations."""

from datetime import datetime

import asyncpg

from shared.infra.postgres.pool import Connection
from shared.models.accounts import Invitation, Member, ProjectAccess, ProjectRow, Purpose, Role

_INVITATIONS_LOCK = 0x52454C4159 + 2


async def insert_membership(conn: Connection, project_id: str, account_id: str, role: Role, now: datetime) -> None:
    """Give an account a role in a project. A member keeps its current role."""
    await conn.execute(
        """
        INSERT INTO membership (project_id, account_id, role, created_at)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (project_id, account_id) DO NOTHING
        """,
        project_id,
        account_id,
        role,
        now,
    )


async def set_role(conn: Connection, project_id: str, account_id: str, role: Role) -> None:
    """Change the role of a member."""
    await conn.execute(
        "UPDATE membership SET role = $3 WHERE project_id = $1 AND account_id = $2", project_id, account_id, role
    )


async def delete_membership(conn: Connection, project_id: str, account_id: str) -> None:
    """Remove a member from a project."""
    await conn.execute("DELETE FROM membership WHERE project_id = $1 AND account_id = $2", project_id, account_id)


async def members(conn: Connection, project_id: str, *, lock: bool = False) -> list[Member]:
    """Return the members of a project, oldest membership first.

    ``lock``: locks them until the transaction ends.
    """
    rows = await conn.fetch(
        """
        SELECT a.id, a.email, a.name, m.role, m.created_at
        FROM membership m
        JOIN account a ON a.id = m.account_id
        WHERE m.project_id = $1
        ORDER BY m.created_at, a.id
        """
        + (" FOR UPDATE OF m" if lock else ""),
        project_id,
    )
    return [Member(row["id"], row["email"], row["name"], row["role"], row["created_at"]) for row in rows]


def _access(row: "asyncpg.Record") -> ProjectAccess:
    return ProjectAccess(row["id"], row["name"], row["role"], row["created_at"], row["archived_at"])


async def project_access(conn: Connection, project_id: str, account_id: str, everything: bool) -> ProjectAccess | None:
    """Return the project if the account is a member.

    ``everything``: the account is an administrator of the instance, and so an owner of every project.
    """
    row = await conn.fetchrow(
        """
        SELECT p.id, p.name, p.created_at, p.archived_at, CASE WHEN $3 THEN 'owner' ELSE m.role END AS role
        FROM project p
        LEFT JOIN membership m ON m.project_id = p.id AND m.account_id = $2
        WHERE p.id = $1
          AND ($3 OR m.role IS NOT NULL)
        """,
        project_id,
        account_id,
        everything,
    )
    return None if row is None else _access(row)


async def projects_of(conn: Connection, account_id: str) -> list[ProjectAccess]:
    """Return the projects of an account, archived ones last."""
    rows = await conn.fetch(
        """
        SELECT p.id, p.name, p.created_at, p.archived_at, m.role
        FROM membership m
        JOIN project p ON p.id = m.project_id
        WHERE m.account_id = $1
        ORDER BY p.archived_at IS NOT NULL, lower(p.name), p.id
        """,
        account_id,
    )
    return [_access(row) for row in rows]


async def orphaned_projects(conn: Connection, limit: int) -> list[ProjectAccess]:
    """Return projects without members, for administrators. The command line creates such projects."""
    rows = await conn.fetch(
        """
        SELECT p.id, p.name, p.created_at, p.archived_at, 'owner' AS role
        FROM project p
        WHERE p.archived_at IS NULL
          AND NOT EXISTS (SELECT FROM membership m WHERE m.project_id = p.id)
        ORDER BY p.created_at DESC, p.id
        LIMIT $1
        """,
        limit,
    )
    return [_access(row) for row in rows]


async def insert_invitation(
    conn: Connection,
    invitation_id: str,
    digest: bytes,
    purpose: Purpose,
    *,
    project_id: str | None,
    role: Role | None,
    account_id: str | None,
    note: str,
    created_by: str | None,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Insert an invitation. ``digest``: the SHA-256 of its secret."""
    await conn.execute(
        """
        INSERT INTO invitation (
            id, digest, purpose, project_id, role, account_id, note, created_by, created_at, expires_at
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        invitation_id,
        digest,
        purpose,
        project_id,
        role,
        account_id,
        note,
        created_by,
        now,
        expires_at,
    )


_INVITATION = """
    SELECT i.id, i.purpose, i.project_id, p.name AS project_name, i.role, i.account_id, i.note,
        c.email AS invited_by, i.created_at, i.expires_at, i.used_at, u.email AS used_by, i.revoked_at
    FROM invitation i
    LEFT JOIN project p ON p.id = i.project_id
    LEFT JOIN account c ON c.id = i.created_by
    LEFT JOIN account u ON u.id = i.used_by
    """


async def invitation_by_digest(
    conn: Connection, digest: bytes, now: datetime, *, lock: bool = False
) -> Invitation | None:
    """Return an invitation that can still be used. ``lock``: locks it until the transaction ends."""
    row = await conn.fetchrow(
        _INVITATION + " WHERE i.digest = $1 AND i.used_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > $2"
        " AND p.archived_at IS NULL" + (" FOR UPDATE OF i" if lock else ""),
        digest,
        now,
    )
    return None if row is None else Invitation(*row)


async def lock_invitations(conn: Connection) -> None:
    """Lock invitations: until the transaction ends, nobody else can create one."""
    await conn.execute("SELECT pg_advisory_xact_lock($1)", _INVITATIONS_LOCK)


async def count_open_invitations(conn: Connection, project_id: str | None, purpose: Purpose, now: datetime) -> int:
    """Count the usable links with this purpose, of a project (None: of the instance)."""
    count: int = await conn.fetchval(
        """
        SELECT count(*)
        FROM invitation
        WHERE project_id IS NOT DISTINCT FROM $1
          AND purpose = $2
          AND used_at IS NULL
          AND revoked_at IS NULL
          AND expires_at > $3
        """,
        project_id,
        purpose,
        now,
    )
    return count


async def count_owned_projects(conn: Connection, account_id: str) -> int:
    """Count the projects that the account owns and that are not archived."""
    count: int = await conn.fetchval(
        """
        SELECT count(*)
        FROM membership m
        JOIN project p ON p.id = m.project_id
        WHERE m.account_id = $1
          AND m.role = 'owner'
          AND p.archived_at IS NULL
        """,
        account_id,
    )
    return count


async def open_invitations(conn: Connection, project_id: str | None, now: datetime) -> list[Invitation]:
    """Return the usable links to a project (None: those to sign up), newest first, at most 200.

    Password links are not listed.
    """
    rows = await conn.fetch(
        _INVITATION + " WHERE i.project_id IS NOT DISTINCT FROM $1 AND i.purpose <> 'password' AND i.used_at IS NULL"
        " AND i.revoked_at IS NULL AND i.expires_at > $2 ORDER BY i.created_at DESC, i.id LIMIT 200",
        project_id,
        now,
    )
    return [Invitation(*row) for row in rows]


async def use_invitation(conn: Connection, invitation_id: str, account_id: str, now: datetime) -> None:
    """Mark an invitation as used."""
    await conn.execute("UPDATE invitation SET used_at = $3, used_by = $2 WHERE id = $1", invitation_id, account_id, now)


async def revoke_invitation(conn: Connection, invitation_id: str, project_id: str | None, now: datetime) -> bool:
    """Revoke an invitation of a project (None: of the instance).

    Returns False if there is no such invitation.
    """
    done = await conn.execute(
        """
        UPDATE invitation
        SET revoked_at = $3
        WHERE id = $1
          AND project_id IS NOT DISTINCT FROM $2
          AND used_at IS NULL
        """,
        invitation_id,
        project_id,
        now,
    )
    return done == "UPDATE 1"


async def revoke_invitations_by(
    conn: Connection, account_id: str, now: datetime, *, project_id: str | None = None, only: Role | None = None
) -> None:
    """Revoke the open invitations that an account made: all, or those to one project or with one role."""
    await conn.execute(
        """
        UPDATE invitation
        SET revoked_at = $2
        WHERE created_by = $1
          AND used_at IS NULL
          AND revoked_at IS NULL
          AND ($3::text IS NULL OR project_id = $3)
          AND ($4::text IS NULL OR role = $4)
        """,
        account_id,
        now,
        project_id,
        only,
    )


async def revoke_password_links(conn: Connection, account_id: str, now: datetime) -> None:
    """Revoke every link that can set the password of this account."""
    await conn.execute(
        """
        UPDATE invitation
        SET revoked_at = $2
        WHERE purpose = 'password'
          AND account_id = $1
          AND used_at IS NULL
          AND revoked_at IS NULL
        """,
        account_id,
        now,
    )


async def all_projects(conn: Connection, search: str, after: tuple[str, str] | None, limit: int) -> list[ProjectRow]:
    """Return projects whose name contains ``search`` or whose id is ``search``, by name.

    ``after``: the (lower-case name, id) of the last project of the previous page.
    """
    rows = await conn.fetch(
        """
        SELECT p.id, p.name, p.created_at, p.archived_at,
            (SELECT count(*) FROM membership m WHERE m.project_id = p.id), (
                SELECT count(*)
                FROM api_key k
                WHERE k.project_id = p.id
                  AND k.revoked_at IS NULL
            )
        FROM project p
        WHERE (position(lower($1) IN lower(p.name)) > 0 OR p.id = $1)
          AND ($2::text IS NULL OR (lower(p.name), p.id) > ($2, $3))
        ORDER BY lower(p.name), p.id
        LIMIT $4
        """,
        search,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [ProjectRow(*row) for row in rows]
