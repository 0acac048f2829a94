"""`relay projects` and `relay keys`: what they do, apart from how they print it."""

from datetime import UTC, datetime

from shared.errors import KeyNotFound, ProjectNotFound
from shared.ids import MODES, KeyType, Mode, new_id, new_key
from shared.models.projects import CreatedKey, CreatedProject, KeyInfo, Project
from shared.postgres import Connection, connect
from shared.queries import projects as queries
from shared.settings import DatabaseUrl


async def _add_key(conn: Connection, project_id: str, mode: Mode, key_type: KeyType, name: str) -> CreatedKey:
    created = CreatedKey(key_id=new_id(), key=new_key(mode, key_type), mode=mode, type=key_type)
    await queries.insert_key(
        conn,
        created.key_id,
        project_id,
        created.key,
        mode=mode,
        key_type=key_type,
        name=name,
        now=datetime.now(UTC),
    )
    return created


async def create_project(database: DatabaseUrl, name: str) -> CreatedProject:
    """Makes a project with one secret and one publishable key per mode."""
    conn = await connect(database, "relay cli")
    try:
        async with conn.transaction():
            project_id = new_id()
            await queries.insert_project(conn, project_id, name, datetime.now(UTC))
            types: tuple[KeyType, KeyType] = ("secret", "publishable")
            keys = [await _add_key(conn, project_id, mode, key_type, "default") for mode in MODES for key_type in types]
            return CreatedProject(project_id=project_id, name=name, keys=keys)
    finally:
        await conn.close()


async def list_projects(database: DatabaseUrl) -> list[Project]:
    conn = await connect(database, "relay cli")
    try:
        return await queries.list_projects(conn)
    finally:
        await conn.close()


async def any_project(database: DatabaseUrl) -> bool:
    """Whether a project exists: false only before the first start has made one."""
    return bool(await list_projects(database))


async def create_key(database: DatabaseUrl, project_id: str, mode: Mode, key_type: KeyType, name: str) -> CreatedKey:
    """Adds a key to a project. Raises ``ProjectNotFound``."""
    conn = await connect(database, "relay cli")
    try:
        async with conn.transaction():
            if not await queries.project_exists(conn, project_id):
                raise ProjectNotFound(project_id)
            return await _add_key(conn, project_id, mode, key_type, name)
    finally:
        await conn.close()


async def list_keys(database: DatabaseUrl, project_id: str | None) -> list[KeyInfo]:
    """Keys of one project (``ProjectNotFound`` if there is none such), or of all."""
    conn = await connect(database, "relay cli")
    try:
        if project_id is not None and not await queries.project_exists(conn, project_id):
            raise ProjectNotFound(project_id)
        return await queries.list_keys(conn, project_id)
    finally:
        await conn.close()


async def revoke_key(database: DatabaseUrl, key_id: str) -> KeyInfo:
    """Revokes a key; every API process refuses it within a second. Raises ``KeyNotFound``."""
    conn = await connect(database, "relay cli")
    try:
        revoked = await queries.revoke_key(conn, key_id, datetime.now(UTC))
        if revoked is None:
            raise KeyNotFound(key_id)
        return revoked
    finally:
        await conn.close()
