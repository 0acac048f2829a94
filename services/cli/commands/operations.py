"""`relay data` and `relay doctor`."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from services.cli.command import database_of, declare, print_json, settings_of
from shared.errors import SettingsInvalid


def add(commands: Any) -> None:
    """Declares them."""
    data = commands.add_parser("data", help="erase personal data").add_subparsers(required=True, metavar="COMMAND")
    erase = declare(
        data, "erase", _data_erase, "take one identity out of everything stored, totals unchanged", json=True
    )
    erase.add_argument("--project", required=True, metavar="ID", help="see `relay projects list`")
    erase.add_argument("--identity", required=True, help="as the tokens named it")

    doctor = declare(
        commands, "doctor", _doctor, "check the configuration and what runs, and say what to do", json=True
    )
    doctor.add_argument(
        "--livekit-config", type=Path, metavar="FILE", help="check LiveKit's own configuration file too"
    )


def _data_erase(arguments: argparse.Namespace) -> int:
    from services.cli.erase import erase, printed

    erased = asyncio.run(erase(database_of(arguments), arguments.project, arguments.identity))
    if arguments.json:
        print_json(erased)
    else:
        print(printed(erased, arguments.identity))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from services.cli.doctor.command import examine, printed
    from services.cli.doctor.finding import Finding, report_of

    try:
        settings = settings_of(arguments)
        report = asyncio.run(examine(settings, arguments.livekit_config))
    except SettingsInvalid as error:
        advice = "set it in the environment; docs/self-hosting.md lists every variable"
        report = report_of([Finding("settings", "error", line, advice) for line in error.lines])
    if arguments.json:
        print_json(report)
    else:
        print(printed(report))
    return 0 if report.ok else 1
