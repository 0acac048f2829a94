"""`relay projects`: create, list, rename, archive and restore projects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import click

from services.cli.instance import database_of
from services.cli.options import Invocation, Text, command, group
from services.cli.output import print_json, print_table
from shared.accounts.service import COMMAND_LINE, record
from shared.infra.postgres.pool import Connection, connect
from shared.infra.settings import DatabaseUrl
from shared.models.projects import CreatedProject, Project
from shared.projects import queries, service

CREATED_BY = "cli"
projects = group("projects", "Create, list, rename, archive and restore projects.")


@asynccontextmanager
async def transaction(database: DatabaseUrl) -> AsyncIterator[Connection]:
    """Open a connection and a transaction for one command."""
    conn = await connect(database, "relay cli")
    try:
        async with conn.transaction():
            yield conn
    finally:
        await conn.close()


async def create_project(database: DatabaseUrl, name: str) -> CreatedProject:
    """Create a project with one secret and one publishable key per mode. Raises ``InvalidRequest``."""
    now = datetime.now(UTC)
    async with transaction(database) as conn:
        created = await service.create_project(conn, name, now, created_by=CREATED_BY)
        await record(conn, COMMAND_LINE, "project_created", now, project_id=created.project_id, target=name)
    return created


async def list_projects(database: DatabaseUrl, *, archived: bool = False) -> list[Project]:
    """List projects in the order of their creation. ``archived`` includes archived ones."""
    async with transaction(database) as conn:
        return await queries.list_projects(conn, archived=archived)


async def rename_project(database: DatabaseUrl, project_id: str, name: str) -> Project:
    """Rename a project. Raises ``ProjectNotFound``, ``InvalidRequest``."""
    async with transaction(database) as conn:
        return await _recorded(conn, "project_renamed", await service.rename_project(conn, project_id, name))


async def archive_project(database: DatabaseUrl, project_id: str) -> Project:
    """Stop the keys of a project everywhere within a second. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        archived = await service.archive_project(conn, project_id, datetime.now(UTC))
        return await _recorded(conn, "project_archived", archived)


async def restore_project(database: DatabaseUrl, project_id: str) -> Project:
    """Undo ``archive_project``. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        return await _recorded(conn, "project_restored", await service.restore_project(conn, project_id))


async def _recorded(conn: Connection, action: str, project: Project) -> Project:
    await record(conn, COMMAND_LINE, action, datetime.now(UTC), project_id=project.project_id, target=project.name)
    return project


@command(
    "create",
    "Create a project and its keys. The keys are shown only once, now.",
    more="NAME has 1 to 200 characters.",
    of=projects,
    json=True,
)
@click.argument("name", metavar="NAME", type=Text())
def create(invocation: Invocation, name: str) -> int:
    project = asyncio.run(create_project(database_of(invocation), name))
    if invocation.json:
        print_json(project)
        return 0
    print(f"{project.name}: project {project.project_id}. Its keys are shown only once, now:")
    print_table(["MODE", "TYPE", "KEY"], [[key.mode, key.type, key.key] for key in project.keys])
    return 0


@command("list", "List projects.", of=projects, json=True)
@click.option("--archived", is_flag=True, help="Also list archived projects.")
def listing(invocation: Invocation, archived: bool) -> int:
    found = asyncio.run(list_projects(database_of(invocation), archived=archived))
    if invocation.json:
        print_json(found)
    elif not found:
        print("No project yet. Create one with `relay projects create NAME`.")
    else:
        rows = [
            [p.project_id, f"{p.created_at:%F %T}", "archived" if p.archived_at else "active", p.name] for p in found
        ]
        print_table(["PROJECT", "CREATED", "STATE", "NAME"], rows)
    return 0


@command(
    "rename",
    "Rename a project.",
    more="`relay projects list --archived` shows the PROJECT_ID.",
    of=projects,
    json=True,
)
@click.argument("project_id", metavar="PROJECT_ID", type=Text())
@click.argument("name", metavar="NAME", type=Text())
def rename(invocation: Invocation, project_id: str, name: str) -> int:
    project = asyncio.run(rename_project(database_of(invocation), project_id, name))
    return _print_project(invocation, project, f"renamed {project.project_id} to {project.name}")


@command(
    "archive",
    "Stop all keys of a project. Its usage stays.",
    more="`relay projects list --archived` shows the PROJECT_ID.",
    of=projects,
    json=True,
)
@click.argument("project_id", metavar="PROJECT_ID", type=Text())
def archive(invocation: Invocation, project_id: str) -> int:
    project = asyncio.run(archive_project(database_of(invocation), project_id))
    return _print_project(
        invocation, project, f"archived {project.project_id} ({project.name}); its keys no longer work"
    )


@command(
    "restore",
    "Undo `archive`. The keys work again.",
    more="`relay projects list --archived` shows the PROJECT_ID.",
    of=projects,
    json=True,
)
@click.argument("project_id", metavar="PROJECT_ID", type=Text())
def restore(invocation: Invocation, project_id: str) -> int:
    project = asyncio.run(restore_project(database_of(invocation), project_id))
    return _print_project(invocation, project, f"restored {project.project_id} ({project.name}); its keys work again")


def _print_project(invocation: Invocation, project: Project, text: str) -> int:
    if invocation.json:
        print_json(project)
    else:
        print(text)
    return 0
