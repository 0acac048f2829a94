"""What the commands are made of: how one is declared, what its arguments may be, which instance it is about, how it answers."""

import argparse
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import SettingsInvalid
from shared.settings import (
    DatabaseUrl,
    Settings,
    default_data_dir,
    environment,
    load_settings,
    parse_database_url,
)

_DURATION = re.compile(r"([0-9]{1,6})([dhms]?)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def declare(commands: Any, name: str, run: Any, text: str, *, json: bool = False, data_dir: bool = True) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    if data_dir:
        parser.add_argument(
            "--data-dir", type=Path, default=None, help="of `relay up` (default: RELAY_DATA_DIR, else .relay)"
        )
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def bounded(convert: Any, low: float, high: float) -> Any:
    """An argparse type: a number from ``low`` to ``high``."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}")
        return value

    return parse


def duration(text: str) -> timedelta:
    """``90d``, ``12h``, ``30m``, ``10s``; 0 needs no unit."""
    match = _DURATION.fullmatch(text)
    if match is None or (not match[2] and int(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write it like 90d, 12h, 30m or 10s")
    return int(match[1]) * timedelta(**{_UNITS[match[2] or "s"]: 1})


def environment_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings of the instance in the data directory; what the environment says itself goes first."""
    from services.local.data_dir import DataDir

    return DataDir(arguments.data_dir or default_data_dir()).environment()


def database_of(arguments: argparse.Namespace) -> DatabaseUrl:
    url = environment_of(arguments).get("DATABASE_URL", "")
    if not url:
        raise SettingsInvalid(["no Relay runs here: start `relay up`, name its --data-dir, or set DATABASE_URL"])
    return parse_database_url(url)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """All settings of the instance in the data directory. Raises ``SettingsInvalid``."""
    return load_settings({**environment(), **environment_of(arguments)})


def fail(*lines: str, code: int = 1) -> int:
    for line in lines:
        print(f"relay: {line}", file=sys.stderr)
    return code


def print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
