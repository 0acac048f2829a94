"""`relay events`, `reconcile`, `usage` and `simulate`."""

import argparse
import asyncio
from typing import Any

from services.cli.command import bounded, database_of, declare, fail, print_json, settings_of
from services.cli.simulate.arguments import add_arguments

_LARGEST_ID = 2**63 - 1


def add(commands: Any) -> None:
    """Declares them."""
    events = commands.add_parser("events", help="events that the meter could not use").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = declare(
        events, "set-aside", _events("list"), "list events that could not be metered, newest first", json=True
    )
    listing.add_argument("--reason", help="only those set aside for this reason")
    listing.add_argument("--limit", type=bounded(int, 1, 1000), default=50, help="(default: %(default)s)")
    listing.add_argument("--before", type=bounded(int, 1, _LARGEST_ID), metavar="ID", help="continue a list")
    listing.add_argument("--bodies", action="store_true", help="print what LiveKit sent, too")
    replay = declare(
        events, "replay", _events("replay"), "give events that were set aside to the worker again", json=True
    )
    replay.add_argument(
        "ids", nargs="*", type=bounded(int, 1, _LARGEST_ID), metavar="ID", help="see `relay events set-aside`"
    )
    replay.add_argument("--all", action="store_true", help="all of them")
    replay.add_argument("--reason", help="all that were set aside for this reason")
    dismiss = declare(events, "dismiss", _events("dismiss"), "delete events that were set aside, for good", json=True)
    dismiss.add_argument(
        "ids", nargs="+", type=bounded(int, 1, _LARGEST_ID), metavar="ID", help="see `relay events set-aside`"
    )

    declare(commands, "reconcile", _reconcile, "ask LiveKit once who is there and put the meter right", json=True)
    usage = commands.add_parser("usage", help="prove what is stored, and mend it").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, text in (
        ("verify", "recompute states from the kept events and rollups from the states; print what differs"),
        ("rebuild", "write what verify would print, while events are being folded"),
    ):
        command = declare(usage, name, _usage, text, json=True)
        command.set_defaults(rebuild=name == "rebuild")
        command.add_argument(
            "--from", dest="first", type=_day, metavar="DAY", help="the first UTC day (default: of all)"
        )
        command.add_argument("--to", dest="last", type=_day, metavar="DAY", help="the last UTC day (default: of all)")

    add_arguments(declare(commands, "simulate", _simulate, "send signed, realistic webhook traffic"))


def _events(what: str) -> Any:
    def run(arguments: argparse.Namespace) -> int:
        from services.cli import events

        if what == "replay" and bool(arguments.ids) == (arguments.all or arguments.reason is not None):
            return fail("name the events to replay by their ids, or give --all or --reason", code=2)
        return int(getattr(events, f"run_{what}")(arguments, database_of(arguments)))

    return run


def _reconcile(arguments: argparse.Namespace) -> int:
    from services.cli.reconcile import describe, run_once

    database_of(arguments)  # says better than the settings what is wrong where no Relay is
    result = asyncio.run(run_once(settings_of(arguments)))
    if arguments.json:
        print_json(result)
    else:
        print("\n".join(describe(result)))
    return 0


def _day(text: str) -> int:
    from services.cli.usage import day

    return day(text)


def _usage(arguments: argparse.Namespace) -> int:
    from services.cli.usage import run

    if None not in (arguments.first, arguments.last) and arguments.first > arguments.last:
        return fail("--from must not be after --to", code=2)
    return run(arguments, database_of(arguments))


def _simulate(arguments: argparse.Namespace) -> int:
    from services.cli.projects import list_projects
    from services.cli.simulate.command import Target, run

    settings = settings_of(arguments)
    projects = asyncio.run(list_projects(settings.database))
    if not projects:
        return fail("there is no project to simulate traffic for; make one with `relay projects create NAME`")
    target = Target(
        url=settings.relay_api_url,
        api_key=settings.livekit_api_key,
        api_secret=settings.livekit_api_secret,
        projects=[(project.project_id, project.name) for project in projects],
    )
    return asyncio.run(run(arguments, target))
