"""`relay projects`."""

import argparse
import asyncio
from typing import Any

from services.cli.command import database_of, declare, print_json, print_table
from shared.models.projects import Project


def add(commands: Any) -> None:
    """Declares them."""
    projects = commands.add_parser(
        "projects", help="create, list, rename, archive and restore projects"
    ).add_subparsers(required=True, metavar="COMMAND")
    create = declare(projects, "create", _projects_create, "make a project and its keys, shown only now", json=True)
    create.add_argument("name", metavar="NAME", help="1 to 200 characters")
    listing = declare(projects, "list", _projects_list, "list projects", json=True)
    listing.add_argument("--archived", action="store_true", help="archived ones too")
    rename = declare(projects, "rename", _projects_rename, "give a project another name", json=True)
    archive = declare(projects, "archive", _projects_archive, "stop all keys of a project; usage stays", json=True)
    restore = declare(projects, "restore", _projects_restore, "undo archive: the keys work again", json=True)
    for command in (rename, archive, restore):
        command.add_argument("project_id", metavar="PROJECT_ID", help="see `relay projects list --archived`")
    rename.add_argument("name", metavar="NAME", help="1 to 200 characters")


def _projects_create(arguments: argparse.Namespace) -> int:
    from services.cli.projects import create_project

    project = asyncio.run(create_project(database_of(arguments), arguments.name))
    if arguments.json:
        print_json(project)
        return 0
    print(f"{project.name}: project {project.project_id}. Its keys, shown only now:")
    print_table(["MODE", "TYPE", "KEY"], [[key.mode, key.type, key.key] for key in project.keys])
    return 0


def _projects_list(arguments: argparse.Namespace) -> int:
    from services.cli.projects import list_projects

    projects = asyncio.run(list_projects(database_of(arguments), archived=arguments.archived))
    if arguments.json:
        print_json(projects)
    elif not projects:
        print("No project yet. Make one with `relay projects create NAME`.")
    else:
        rows = [
            [p.project_id, f"{p.created_at:%F %T}", "archived" if p.archived_at else "active", p.name] for p in projects
        ]
        print_table(["PROJECT", "CREATED", "STATE", "NAME"], rows)
    return 0


def _projects_rename(arguments: argparse.Namespace) -> int:
    from services.cli.projects import rename_project

    project = asyncio.run(rename_project(database_of(arguments), arguments.project_id, arguments.name))
    return _print_project(arguments, project, f"renamed {project.project_id} to {project.name}")


def _projects_archive(arguments: argparse.Namespace) -> int:
    from services.cli.projects import archive_project

    project = asyncio.run(archive_project(database_of(arguments), arguments.project_id))
    return _print_project(
        arguments, project, f"archived {project.project_id} ({project.name}); its keys no longer work"
    )


def _projects_restore(arguments: argparse.Namespace) -> int:
    from services.cli.projects import restore_project

    project = asyncio.run(restore_project(database_of(arguments), arguments.project_id))
    return _print_project(arguments, project, f"restored {project.project_id} ({project.name}); its keys work again")


def _print_project(arguments: argparse.Namespace, project: Project, said: str) -> int:
    if arguments.json:
        print_json(project)
    else:
        print(said)
    return 0
