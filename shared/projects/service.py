"""What is done with projects, whoever asks: the command line, the API or the portal. Every function takes a connection
inside the caller's transaction and the time as it is now. Keys have ``shared/keys/service.py``."""

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
    """Makes a project with one secret and one publishable key per mode. Raises ``InvalidRequest``."""
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
    """Raises ``ProjectNotFound``, ``InvalidRequest``."""
    return _found(await queries.rename_project(conn, project_id, checked_name(name)), project_id)


async def archive_project(conn: Connection, project_id: str, now: datetime) -> Project:
    """Takes a project out of use: every API process refuses its keys within a second. Its usage stays, and goes on counting
    whoever is still connected. Raises ``ProjectNotFound``."""
    return _found(await queries.archive_project(conn, project_id, now), project_id)


async def restore_project(conn: Connection, project_id: str) -> Project:
    """Undoes ``archive_project``: its keys work again, those apart that were revoked or expired. Raises ``ProjectNotFound``."""
    return _found(await queries.restore_project(conn, project_id), project_id)


def _found(project: Project | None, project_id: str) -> Project:
    if project is None:
        raise ProjectNotFound(project_id)
    return project
