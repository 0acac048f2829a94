"""The `relay` command: parses arguments and prints; what is done lives in the modules beside this one. Each command imports
what it needs when it runs, because an image carries only the parts of its own service."""

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psycopg

from shared.errors import RelayError, SettingsInvalid
from shared.models.projects import NewKey, Project
from shared.settings import DatabaseUrl, default_data_dir, environment, load_settings, parse_database_url

_LARGEST_ID = 2**63 - 1
_DURATION = re.compile(r"([0-9]{1,6})([dhms]?)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except SettingsInvalid as error:
        return _fail(*error.lines, code=2)
    except RelayError as error:
        return _fail(str(error))
    except asyncpg.UndefinedTableError:
        return _fail("the database has no tables yet; run `relay migrate`")
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, psycopg.OperationalError):
        return _fail("the database cannot be reached. Is `relay up` running, or DATABASE_URL set to the right place?")
    except KeyboardInterrupt:
        return 130


def _fail(*lines: str, code: int = 1) -> int:
    for line in lines:
        print(f"relay: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    from services.cli.simulate.command import add_arguments
    from services.cli.simulate.command import bounded as _bounded

    parser = argparse.ArgumentParser(
        prog="relay", description="A gateway in front of LiveKit: keys, rooms, tokens, usage."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = _command(commands, "up", _up, "run everything on this machine, with embedded Postgres and Redis")
    up.add_argument("--port", type=int, help="where the API listens (default: PORT, else 3000)")
    up.add_argument("--host", default="127.0.0.1", help="the address the API listens on (default: %(default)s)")
    _command(commands, "api", _api, "run one API process, set up from the environment", data_dir=False)
    worker = _command(commands, "worker", _worker, "run workers, set up from the environment", data_dir=False)
    worker.add_argument("--processes", type=int, default=1, help="how many (default: %(default)s)")
    _command(commands, "migrate", _migrate, "apply the database's migrations and stop")

    projects = commands.add_parser("projects", help="create and list projects").add_subparsers(
        required=True, metavar="…"
    )
    create = _command(projects, "create", _projects_create, "make a project and its keys, shown only now", json=True)
    create.add_argument("name")
    listing = _command(projects, "list", _projects_list, "list projects", json=True)
    listing.add_argument("--archived", action="store_true", help="archived ones too")
    rename = _command(projects, "rename", _projects_rename, "give a project another name", json=True)
    archive = _command(projects, "archive", _projects_archive, "stop all keys of a project; usage stays", json=True)
    restore = _command(projects, "restore", _projects_restore, "undo archive: the keys work again", json=True)
    for command in (rename, archive, restore):
        command.add_argument("project_id", metavar="PROJECT_ID", help="see `relay projects list --archived`")
    rename.add_argument("name")

    keys = commands.add_parser("keys", help="create, list, rotate and revoke API keys").add_subparsers(
        required=True, metavar="…"
    )
    create = _command(keys, "create", _keys_create, "make a key, shown only now", json=True)
    create.add_argument("--project", required=True, metavar="ID", help="see `relay projects list`")
    create.add_argument("--mode", choices=("live", "test"), default="live", help="(default: %(default)s)")
    create.add_argument("--type", choices=("secret", "publishable"), default="secret", help="(default: %(default)s)")
    create.add_argument("--name", default="default", help="to tell keys apart (default: %(default)s)")
    create.add_argument("--expires", type=_duration, metavar="TIME", help="after this time, like 90d, 12h or 30m")
    listing = _command(keys, "list", _keys_list, "list keys, without their secrets", json=True)
    listing.add_argument("--project", metavar="ID", help="only this project's")
    revoke = _command(keys, "revoke", _keys_revoke, "stop a key from working, everywhere within a second", json=True)
    revoke.add_argument("--and-made", action="store_true", help="also every key that was made with it over the API")
    rotate = _command(keys, "rotate", _keys_rotate, "replace a key; both work for a while", json=True)
    rotate.add_argument(
        "--grace", type=_duration, default="24h", metavar="TIME", help="how long (default: %(default)s; 0)"
    )
    for command in (revoke, rotate):
        command.add_argument("key_id", metavar="KEY_ID", help="see `relay keys list`")

    accounts = commands.add_parser("accounts", help="who may use the portal").add_subparsers(required=True, metavar="…")
    _command(accounts, "list", _accounts_list, "list the portal's accounts", json=True)
    invite = _command(accounts, "invite", _accounts_invite, "print a link to make an account with", json=True)
    invite.add_argument("--note", default="", help="whom it is for")
    password = _command(accounts, "password", _accounts_password, "print a link to set a new password with", json=True)
    password.add_argument("email", metavar="EMAIL", help="of the account")

    events = commands.add_parser("events", help="events that the meter could not use").add_subparsers(
        required=True, metavar="…"
    )
    listing = _command(
        events, "set-aside", _events("list"), "list events that could not be metered, newest first", json=True
    )
    listing.add_argument("--reason", help="only those set aside for this reason")
    listing.add_argument("--limit", type=_bounded(int, 1, 1000), default=50, help="(default: %(default)s)")
    listing.add_argument("--before", type=_bounded(int, 1, _LARGEST_ID), metavar="ID", help="continue a list")
    listing.add_argument("--bodies", action="store_true", help="print what LiveKit sent, too")
    replay = _command(
        events, "replay", _events("replay"), "give events that were set aside to the worker again", json=True
    )
    replay.add_argument(
        "ids", nargs="*", type=_bounded(int, 1, _LARGEST_ID), metavar="ID", help="see `relay events set-aside`"
    )
    replay.add_argument("--all", action="store_true", help="all of them")
    replay.add_argument("--reason", help="all that were set aside for this reason")
    dismiss = _command(events, "dismiss", _events("dismiss"), "delete events that were set aside, for good", json=True)
    dismiss.add_argument(
        "ids", nargs="+", type=_bounded(int, 1, _LARGEST_ID), metavar="ID", help="see `relay events set-aside`"
    )

    data = commands.add_parser("data", help="personal data").add_subparsers(required=True, metavar="…")
    erase = _command(
        data, "erase", _data_erase, "take one identity out of everything stored, totals unchanged", json=True
    )
    erase.add_argument("--project", required=True, metavar="ID", help="see `relay projects list`")
    erase.add_argument("--identity", required=True, help="as the tokens named it")

    doctor = _command(
        commands, "doctor", _doctor, "check the configuration and what runs, and say what to do", json=True
    )
    doctor.add_argument(
        "--livekit-config", type=Path, metavar="FILE", help="check LiveKit's own configuration file too"
    )

    _command(commands, "reconcile", _reconcile, "ask LiveKit once who is there and put the meter right", json=True)
    usage = commands.add_parser("usage", help="prove what is stored, and mend it").add_subparsers(
        required=True, metavar="…"
    )
    for name, text in (
        ("verify", "recompute states from the kept events and rollups from the states; print what differs"),
        ("rebuild", "write what verify would print, while events are being folded"),
    ):
        command = _command(usage, name, _usage, text, json=True)
        command.set_defaults(rebuild=name == "rebuild")
        command.add_argument(
            "--from", dest="first", type=_day, metavar="DAY", help="the first UTC day (default: of all)"
        )
        command.add_argument("--to", dest="last", type=_day, metavar="DAY", help="the last UTC day (default: of all)")

    add_arguments(_command(commands, "simulate", _simulate, "send signed, realistic webhook traffic"))
    return parser


def _command(commands: Any, name: str, run: Any, text: str, *, json: bool = False, data_dir: bool = True) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    if data_dir:
        parser.add_argument(
            "--data-dir", type=Path, default=None, help="of `relay up` (default: RELAY_DATA_DIR, else .relay)"
        )
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _duration(text: str) -> timedelta:
    """``90d``, ``12h``, ``30m``, ``10s``; 0 needs no unit."""
    match = _DURATION.fullmatch(text)
    if match is None or (not match[2] and int(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write it like 90d, 12h, 30m or 10s")
    return int(match[1]) * timedelta(**{_UNITS[match[2] or "s"]: 1})


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings of the instance in the data directory; what the environment says itself goes first."""
    from services.cli.data_dir import DataDir

    return DataDir(arguments.data_dir or default_data_dir()).environment()


def _database(arguments: argparse.Namespace) -> DatabaseUrl:
    url = _environment(arguments).get("DATABASE_URL", "")
    if not url:
        raise SettingsInvalid(["no Relay runs here: start `relay up`, name its --data-dir, or set DATABASE_URL"])
    return parse_database_url(url)


def _print(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _table(columns: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _up(arguments: argparse.Namespace) -> int:
    from services.cli.up import up

    return asyncio.run(up(arguments.data_dir or default_data_dir(), arguments.port, arguments.host))


def _api(_: argparse.Namespace) -> int:
    from services.api.main import run

    return run()


def _worker(arguments: argparse.Namespace) -> int:
    from services.cli.worker_pool import run_workers

    if arguments.processes < 1:
        return _fail("--processes must be at least 1", code=2)
    return asyncio.run(run_workers(arguments.processes))


def _migrate(arguments: argparse.Namespace) -> int:
    from shared.migrate import migrate

    applied = migrate(_database(arguments))
    print("\n".join(f"applied {migration}" for migration in applied) or "nothing to apply")
    return 0


def _projects_create(arguments: argparse.Namespace) -> int:
    from services.cli.projects import create_project

    project = asyncio.run(create_project(_database(arguments), arguments.name))
    if arguments.json:
        _print(project)
        return 0
    print(f"{project.name}: project {project.project_id}. Its keys, shown only now:")
    _table(["MODE", "TYPE", "KEY"], [[key.mode, key.type, key.key] for key in project.keys])
    return 0


def _projects_list(arguments: argparse.Namespace) -> int:
    from services.cli.projects import list_projects

    projects = asyncio.run(list_projects(_database(arguments), archived=arguments.archived))
    if arguments.json:
        _print(projects)
    elif not projects:
        print("No project yet. Make one with `relay projects create NAME`.")
    else:
        rows = [
            [p.project_id, f"{p.created_at:%F %T}", "archived" if p.archived_at else "active", p.name] for p in projects
        ]
        _table(["PROJECT", "CREATED", "STATE", "NAME"], rows)
    return 0


def _projects_rename(arguments: argparse.Namespace) -> int:
    from services.cli.projects import rename_project

    project = asyncio.run(rename_project(_database(arguments), arguments.project_id, arguments.name))
    return _print_project(arguments, project, f"renamed {project.project_id} to {project.name}")


def _projects_archive(arguments: argparse.Namespace) -> int:
    from services.cli.projects import archive_project

    project = asyncio.run(archive_project(_database(arguments), arguments.project_id))
    return _print_project(
        arguments, project, f"archived {project.project_id} ({project.name}); its keys no longer work"
    )


def _projects_restore(arguments: argparse.Namespace) -> int:
    from services.cli.projects import restore_project

    project = asyncio.run(restore_project(_database(arguments), arguments.project_id))
    return _print_project(arguments, project, f"restored {project.project_id} ({project.name}); its keys work again")


def _print_project(arguments: argparse.Namespace, project: Project, said: str) -> int:
    if arguments.json:
        _print(project)
    else:
        print(said)
    return 0


def _keys_create(arguments: argparse.Namespace) -> int:
    from services.cli.projects import create_key

    key = asyncio.run(
        create_key(
            _database(arguments),
            arguments.project,
            arguments.mode,
            arguments.type,
            arguments.name,
            arguments.expires,
        )
    )
    return _print_new_key(arguments, key)


def _keys_rotate(arguments: argparse.Namespace) -> int:
    from services.cli.projects import rotate_key

    return _print_new_key(arguments, asyncio.run(rotate_key(_database(arguments), arguments.key_id, arguments.grace)))


def _print_new_key(arguments: argparse.Namespace, key: NewKey) -> int:
    if arguments.json:
        _print(key)
    else:
        until = f", until {key.expires_at:%F %T} UTC" if key.expires_at else ""
        print(f"{key.key}\nKey {key.key_id} ({key.mode}, {key.type}{until}); its secret is shown only now.")
    return 0


def _keys_list(arguments: argparse.Namespace) -> int:
    from services.cli.projects import list_keys

    keys = asyncio.run(list_keys(_database(arguments), arguments.project))
    if arguments.json:
        _print(keys)
    elif not keys:
        print("No keys yet. Make one with `relay keys create --project ID`.")
    else:
        now = datetime.now(UTC)
        rows = [
            [k.key_id, k.project_id, f"{k.prefix}…{k.last_four}", k.state(now), _at(k.expires_at), _at(k.last_used_at),
             k.created_by or "", k.rotated_to or "", k.name]
            for k in keys
        ]  # fmt: skip
        _table(["KEY ID", "PROJECT", "KEY", "STATE", "EXPIRES", "LAST USED", "MADE BY", "REPLACED BY", "NAME"], rows)
    return 0


def _at(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%F %R}"


def _keys_revoke(arguments: argparse.Namespace) -> int:
    from services.cli.projects import revoke_key, revoke_key_and_made

    database = _database(arguments)
    if arguments.and_made:
        revoked = asyncio.run(revoke_key_and_made(database, arguments.key_id))
    else:
        revoked = [asyncio.run(revoke_key(database, arguments.key_id))]
    if arguments.json:
        _print(revoked if arguments.and_made else revoked[0])
    else:
        for key in revoked:
            print(f"revoked {key.key_id} (…{key.last_four}) of project {key.project_id}")
    return 0


def _events(what: str) -> Any:
    def run(arguments: argparse.Namespace) -> int:
        from services.cli import events

        if what == "replay" and bool(arguments.ids) == (arguments.all or arguments.reason is not None):
            return _fail("name the events to replay by their ids, or give --all or --reason", code=2)
        return int(getattr(events, f"run_{what}")(arguments, _database(arguments)))

    return run


def _data_erase(arguments: argparse.Namespace) -> int:
    from services.cli.erase import erase, printed

    erased = asyncio.run(erase(_database(arguments), arguments.project, arguments.identity))
    if arguments.json:
        _print(erased)
    else:
        print(printed(erased))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from services.cli.doctor.command import examine, printed
    from services.cli.doctor.finding import Finding, report_of

    try:
        settings = load_settings({**environment(), **_environment(arguments)})
        report = asyncio.run(examine(settings, arguments.livekit_config))
    except SettingsInvalid as error:
        advice = "set it in the environment; docs/self-hosting.md lists every variable"
        report = report_of([Finding("settings", "error", line, advice) for line in error.lines])
    if arguments.json:
        _print(report)
    else:
        print(printed(report))
    return 0 if report.ok else 1


def _reconcile(arguments: argparse.Namespace) -> int:
    from services.cli.reconcile import describe, run_once

    _database(arguments)  # says better than the settings what is wrong where no Relay is
    result = asyncio.run(run_once(load_settings({**environment(), **_environment(arguments)})))
    if arguments.json:
        _print(result)
    else:
        print("\n".join(describe(result)))
    return 0


def _day(text: str) -> int:
    from services.cli.usage import day

    return day(text)


def _usage(arguments: argparse.Namespace) -> int:
    from services.cli.usage import run

    if None not in (arguments.first, arguments.last) and arguments.first > arguments.last:
        return _fail("--from must not be after --to", code=2)
    return run(arguments, _database(arguments))


def _accounts_list(arguments: argparse.Namespace) -> int:
    from services.cli.accounts import list_accounts

    accounts = asyncio.run(list_accounts(_database(arguments)))
    if arguments.json:
        _print(accounts)
    elif not accounts:
        print("No account yet: the first person to open the portal makes one.")
    else:
        rows = [
            [
                str(a["email"]),
                "administrator" if a["isAdmin"] else "",
                "disabled" if a["disabledAt"] else "",
                str(a["name"]),
            ]
            for a in accounts
        ]
        _table(["E-MAIL", "", "STATE", "NAME"], rows)
    return 0


def _accounts_invite(arguments: argparse.Namespace) -> int:
    from services.cli.accounts import invite

    settings = load_settings({**environment(), **_environment(arguments)})
    return _print_link(arguments, asyncio.run(invite(settings, arguments.note)), "for seven days")


def _accounts_password(arguments: argparse.Namespace) -> int:
    from services.cli.accounts import password_link

    settings = load_settings({**environment(), **_environment(arguments)})
    return _print_link(arguments, asyncio.run(password_link(settings, arguments.email)), "for a day")


def _print_link(arguments: argparse.Namespace, link: str, lifetime: str) -> int:
    if arguments.json:
        _print({"link": link})
    else:
        print(f"{link}\nIt works once, {lifetime}.")
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    from services.cli.projects import list_projects
    from services.cli.simulate.command import Target, run

    settings = load_settings({**environment(), **_environment(arguments)})
    projects = asyncio.run(list_projects(settings.database))
    if not projects:
        return _fail("there is no project to simulate traffic for; make one with `relay projects create NAME`")
    target = Target(
        url=settings.relay_api_url,
        api_key=settings.livekit_api_key,
        api_secret=settings.livekit_api_secret,
        projects=[(project.project_id, project.name) for project in projects],
    )
    return asyncio.run(run(arguments, target))


if __name__ == "__main__":
    sys.exit(main())
