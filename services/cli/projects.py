"""`relay projects` and `relay keys`: what they do, apart from how they print it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from shared import keys, projects
from shared.accounts import COMMAND_LINE, record, record_key
from shared.ids import KeyType, Mode
from shared.models.projects import CreatedProject, KeyInfo, NewKey, Project
from shared.postgres import Connection, connect
from shared.queries import projects as queries
from shared.settings import DatabaseUrl

CREATED_BY = "cli"


@asynccontextmanager
async def transaction(database: DatabaseUrl) -> AsyncIterator[Connection]:
    """A connection of its own in one transaction, for one command."""
    conn = await connect(database, "relay cli")
    try:
        async with conn.transaction():
            yield conn
    finally:
        await conn.close()


async def create_project(database: DatabaseUrl, name: str) -> CreatedProject:
    """Makes a project with one secret and one publishable key per mode."""
    now = datetime.now(UTC)
    async with transaction(database) as conn:
        created = await projects.create_project(conn, name, now, created_by=CREATED_BY)
        await record(conn, COMMAND_LINE, "project_created", now, project_id=created.project_id, target=name)
    return created


async def list_projects(database: DatabaseUrl, *, archived: bool = False) -> list[Project]:
    async with transaction(database) as conn:
        return await queries.list_projects(conn, archived=archived)


async def any_project(database: DatabaseUrl) -> bool:
    """Whether a project exists: false only before the first start has made one."""
    return bool(await list_projects(database, archived=True))


async def rename_project(database: DatabaseUrl, project_id: str, name: str) -> Project:
    """Raises ``ProjectNotFound``, ``InvalidRequest``."""
    async with transaction(database) as conn:
        return await _recorded(conn, "project_renamed", await projects.rename_project(conn, project_id, name))


async def archive_project(database: DatabaseUrl, project_id: str) -> Project:
    """Its keys stop working everywhere within a second. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        archived = await projects.archive_project(conn, project_id, datetime.now(UTC))
        return await _recorded(conn, "project_archived", archived)


async def restore_project(database: DatabaseUrl, project_id: str) -> Project:
    """Undoes ``archive_project``. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        return await _recorded(conn, "project_restored", await projects.restore_project(conn, project_id))


async def _recorded(conn: Connection, action: str, project: Project) -> Project:
    await record(conn, COMMAND_LINE, action, datetime.now(UTC), project_id=project.project_id, target=project.name)
    return project


async def create_key(
    database: DatabaseUrl,
    project_id: str,
    mode: Mode,
    key_type: KeyType,
    name: str,
    lifetime: timedelta | None = None,
) -> NewKey:
    """Adds a key that lives for ``lifetime``, or for ever with None. Raises ``ProjectNotFound`` and what
    ``shared.keys.create_key`` does."""
    now = datetime.now(UTC)
    async with transaction(database) as conn:
        expires_at = None if lifetime is None else now + lifetime
        created = await keys.create_key(
            conn, project_id, mode, key_type, name, now, expires_at=expires_at, created_by=CREATED_BY
        )
        await record_key(conn, COMMAND_LINE, "key_created", created, now)
    return created


async def rotate_key(database: DatabaseUrl, key_id: str, grace: timedelta = keys.DEFAULT_GRACE) -> NewKey:
    """Replaces a key; both work for ``grace``. Raises what ``shared.keys.rotate_key`` does."""
    async with transaction(database) as conn:
        now = datetime.now(UTC)
        created = await keys.rotate_key(conn, key_id, now, grace=grace, created_by=CREATED_BY)
        await record_key(conn, COMMAND_LINE, "key_rotated", created, now)
    return created


async def list_keys(database: DatabaseUrl, project_id: str | None) -> list[KeyInfo]:
    """Keys of one project (``ProjectNotFound`` if there is none such), or of all."""
    async with transaction(database) as conn:
        return await keys.list_keys(conn, project_id)


async def revoke_key(database: DatabaseUrl, key_id: str) -> KeyInfo:
    """Revokes a key; every API process refuses it within a second. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        now = datetime.now(UTC)
        revoked = await keys.revoke_key(conn, key_id, now)
        await record_key(conn, COMMAND_LINE, "key_revoked", revoked, now)
    return revoked


async def revoke_key_and_made(database: DatabaseUrl, key_id: str) -> list[KeyInfo]:
    """Revokes a key and all keys made with it. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        now = datetime.now(UTC)
        revoked = await keys.revoke_key_and_made(conn, key_id, now)
        for one in revoked:
            await record_key(conn, COMMAND_LINE, "key_revoked", one, now)
    return revoked
