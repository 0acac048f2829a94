"""What is done with projects and API keys, whoever asks: the command line, the API or the portal. Every function takes a
connection inside the caller's transaction and the time as it is now."""

from datetime import datetime
from typing import Final

from shared.errors import KeyNotFound, ProjectNotFound
from shared.ids import MODES, KeyType, Mode, new_id, new_key
from shared.models.projects import CreatedKey, CreatedProject, KeyInfo
from shared.postgres import Connection
from shared.queries import projects as queries

_TYPES: Final[tuple[KeyType, KeyType]] = ("secret", "publishable")


async def create_project(conn: Connection, name: str, now: datetime) -> CreatedProject:
    """Makes a project with one secret and one publishable key per mode."""
    project_id = new_id()
    await queries.insert_project(conn, project_id, name, now)
    keys = [await _add_key(conn, project_id, mode, kind, "default", now) for mode in MODES for kind in _TYPES]
    return CreatedProject(project_id=project_id, name=name, keys=keys)


async def create_key(
    conn: Connection, project_id: str, mode: Mode, key_type: KeyType, name: str, now: datetime
) -> CreatedKey:
    """Adds a key to a project. Raises ``ProjectNotFound``."""
    if not await queries.project_exists(conn, project_id):
        raise ProjectNotFound(project_id)
    return await _add_key(conn, project_id, mode, key_type, name, now)


async def _add_key(
    conn: Connection, project_id: str, mode: Mode, key_type: KeyType, name: str, now: datetime
) -> CreatedKey:
    created = CreatedKey(key_id=new_id(), key=new_key(mode, key_type), mode=mode, type=key_type)
    await queries.insert_key(
        conn, created.key_id, project_id, created.key, mode=mode, key_type=key_type, name=name, now=now
    )
    return created


async def revoke_key(conn: Connection, key_id: str, now: datetime) -> KeyInfo:
    """Revokes a key; every API process refuses it within a second. Raises ``KeyNotFound``."""
    revoked = await queries.revoke_key(conn, key_id, now)
    if revoked is None:
        raise KeyNotFound(key_id)
    return revoked
