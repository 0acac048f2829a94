"""Create, rename, archive and restore projects, for the API, the portal and the command line.

Every function takes a connection inside the caller's transaction, and the current time. For keys see
``shared/keys/service.py``.
"""

from datetime import datetime
from typing import Final

from shared.errors import ProjectNotFound
from shared.infra.display_names import checked_name
from shared.infra.ids import MODES, KeyType, new_id
from shared.infra.postgres.pool import Connection
from shared.keys.service import add_key
from shared.models.projects import CreatedKey, CreatedProject, Project
from shared.projects import queries

_TYPES: Final[tuple[KeyType, KeyType]] = ("secret", "publishable")


async def create_project(
    conn: Connection, name: str, now: datetime, *, created_by: str | None = None
) -> CreatedProject:
    """Create a project with one secret and one publishable key for each mode. Raises ``InvalidRequest``."""
    project_id = new_id()
    name = checked_name(name)
    await queries.insert_project(conn, project_id, name, now)
    keys = [
        await add_key(conn, project_id, mode, kind, "default", now, created_by=created_by)
        for mode in MODES
        for kind in _TYPES
    ]
    shown = [CreatedKey(key_id=key.key_id, key=key.key, mode=key.mode, type=key.type) for key in keys]
    return CreatedProject(project_id=project_id, name=name, keys=shown)


async def rename_project(conn: Connection, project_id: str, name: str) -> Project:
    """Rename a project. Raises ``ProjectNotFound``, ``InvalidRequest``."""
    return _found(await queries.rename_project(conn, project_id, checked_name(name)), project_id)


async def archive_project(conn: Connection, project_id: str, now: datetime) -> Project:
    """Archive a project: every API process refuses its keys within a second. Raises ``ProjectNotFound``.

    Its usage stays, and participants who are still connected continue to count.
    """
    return _found(await queries.archive_project(conn, project_id, now), project_id)


async def restore_project(conn: Connection, project_id: str) -> Project:
    """Undo ``archive_project``: keys that are neither revoked nor expired work again.

    Raises ``ProjectNotFound``.
    """
    return _found(await queries.restore_project(conn, project_id), project_id)


def _found(project: Project | None, project_id: str) -> Project:
    if project is None:
        raise ProjectNotFound(project_id)
    return project
