"""The options of `relay usage`. The audit is loaded when the command runs."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import click

from services.cli.options import Invocation, command, group

_FIRST, _LAST = date(1970, 1, 1), date(2100, 1, 1)
usage = group("usage", "Verify stored usage, and rebuild it.")


class Day(click.ParamType[int]):
    """A UTC day such as 2026-06-18, converted to the unix milliseconds of its midnight."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            day = date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a day like 2026-06-18", param, ctx)
        if not _FIRST <= day <= _LAST:
            self.fail(f"must be from {_FIRST} to {_LAST}", param, ctx)
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _days(function: Callable[..., int]) -> Callable[..., int]:
    function = click.option("--to", "last", type=Day(), metavar="DAY", help="Last UTC day. Default: of all.")(function)
    return click.option("--from", "first", type=Day(), metavar="DAY", help="First UTC day. Default: of all.")(function)


@command(
    "verify",
    "Recompute states from events and rollups from states; print what differs.",
    of=usage,
    json=True,
)
@_days
def verify(invocation: Invocation, first: int | None, last: int | None) -> int:
    return _audit(invocation, first, last, rebuilds=False)


@command("rebuild", "Write what `verify` would print, while events are being folded.", of=usage, json=True)
@_days
def rebuild(invocation: Invocation, first: int | None, last: int | None) -> int:
    return _audit(invocation, first, last, rebuilds=True)


def _audit(invocation: Invocation, first: int | None, last: int | None, *, rebuilds: bool) -> int:
    if first is not None and last is not None and first > last:
        raise click.UsageError("--from must not be after --to", click.get_current_context())
    from services.cli.instance import database_of
    from services.cli.usage.audit import run, span_of

    return run(database_of(invocation), span_of(first, last), rebuilds=rebuilds, json=invocation.json)
