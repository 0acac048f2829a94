"""`relay projects` and `relay keys`: what they do, apart from how they print it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from shared import keys, projects
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
    async with transaction(database) as conn:
        return await projects.create_project(conn, name, datetime.now(UTC), created_by=CREATED_BY)


async def list_projects(database: DatabaseUrl, *, archived: bool = False) -> list[Project]:
    async with transaction(database) as conn:
        return await queries.list_projects(conn, archived=archived)


async def any_project(database: DatabaseUrl) -> bool:
    """Whether a project exists: false only before the first start has made one."""
    return bool(await list_projects(database, archived=True))


async def rename_project(database: DatabaseUrl, project_id: str, name: str) -> Project:
    """Raises ``ProjectNotFound``, ``InvalidRequest``."""
    async with transaction(database) as conn:
        return await projects.rename_project(conn, project_id, name)


async def archive_project(database: DatabaseUrl, project_id: str) -> Project:
    """Its keys stop working everywhere within a second. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        return await projects.archive_project(conn, project_id, datetime.now(UTC))


async def restore_project(database: DatabaseUrl, project_id: str) -> Project:
    """Undoes ``archive_project``. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        return await projects.restore_project(conn, project_id)


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
        return await keys.create_key(
            conn, project_id, mode, key_type, name, now, expires_at=expires_at, created_by=CREATED_BY
        )


async def rotate_key(database: DatabaseUrl, key_id: str, grace: timedelta = keys.DEFAULT_GRACE) -> NewKey:
    """Replaces a key; both work for ``grace``. Raises what ``shared.keys.rotate_key`` does."""
    async with transaction(database) as conn:
        return await keys.rotate_key(conn, key_id, datetime.now(UTC), grace=grace, created_by=CREATED_BY)


async def list_keys(database: DatabaseUrl, project_id: str | None) -> list[KeyInfo]:
    """Keys of one project (``ProjectNotFound`` if there is none such), or of all."""
    async with transaction(database) as conn:
        return await keys.list_keys(conn, project_id)


async def revoke_key(database: DatabaseUrl, key_id: str) -> KeyInfo:
    """Revokes a key; every API process refuses it within a second. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        return await keys.revoke_key(conn, key_id, datetime.now(UTC))


async def revoke_key_and_made(database: DatabaseUrl, key_id: str) -> list[KeyInfo]:
    """Revokes a key and all keys made with it. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        return await keys.revoke_key_and_made(conn, key_id, datetime.now(UTC))
