"""`relay projects` and `relay keys`: what they do, apart from how they print it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from shared import projects
from shared.errors import ProjectNotFound
from shared.ids import KeyType, Mode
from shared.models.projects import CreatedKey, CreatedProject, KeyInfo, Project
from shared.postgres import Connection, connect
from shared.queries import projects as queries
from shared.settings import DatabaseUrl


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
        return await projects.create_project(conn, name, datetime.now(UTC))


async def list_projects(database: DatabaseUrl) -> list[Project]:
    async with transaction(database) as conn:
        return await queries.list_projects(conn)


async def any_project(database: DatabaseUrl) -> bool:
    """Whether a project exists: false only before the first start has made one."""
    return bool(await list_projects(database))


async def create_key(database: DatabaseUrl, project_id: str, mode: Mode, key_type: KeyType, name: str) -> CreatedKey:
    """Adds a key to a project. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        return await projects.create_key(conn, project_id, mode, key_type, name, datetime.now(UTC))


async def list_keys(database: DatabaseUrl, project_id: str | None) -> list[KeyInfo]:
    """Keys of one project (``ProjectNotFound`` if there is none such), or of all."""
    async with transaction(database) as conn:
        if project_id is not None and not await queries.project_exists(conn, project_id):
            raise ProjectNotFound(project_id)
        return await queries.list_keys(conn, project_id)


async def revoke_key(database: DatabaseUrl, key_id: str) -> KeyInfo:
    """Revokes a key; every API process refuses it within a second. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        return await projects.revoke_key(conn, key_id, datetime.now(UTC))
