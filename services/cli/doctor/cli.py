"""The options of `relay doctor`. The checks are loaded when the command runs."""

import asyncio
from pathlib import Path

import click

from services.cli.options import FilePath, Invocation, command


@command("doctor", "Check the configuration and the running parts, and advise.", json=True)
@click.option(
    "--livekit-config",
    type=FilePath(),
    metavar="FILE",
    help="Check LiveKit's configuration too; - reads it from standard input.",
)
def doctor(invocation: Invocation, livekit_config: Path | None) -> int:
    from services.cli.doctor.command import examine, printed
    from services.cli.doctor.finding import Finding, report_of
    from services.cli.instance import settings_of
    from services.cli.output import print_json
    from shared.errors import SettingsInvalid

    try:
        report = asyncio.run(examine(settings_of(invocation), livekit_config))
    except SettingsInvalid as error:
        advice = "set it in the environment; docs/self-hosting.md lists every variable"
        report = report_of([Finding("settings", "error", line, advice) for line in error.lines])
    if invocation.json:
        print_json(report)
    else:
        print(printed(report))
    return 0 if report.ok else 1
