"""Command classes, shared options and types of values, with which commands are declared.

Every call of `relay` loads this module, so it imports nothing that is slow to load.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Declaration = Callable[[F], F]
_DURATION = re.compile(r"([0-9]{1,6})([dhms]?)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@dataclass
class Invocation:
    """The values of the shared options, given before or after the command's name."""

    data_dir: Path | None = None
    json: bool = False


class RelayCommand(click.Command):
    """A command that refuses a shared option before its name, if it does not have that option."""

    def invoke(self, ctx: click.Context) -> Any:
        given, own = ctx.ensure_object(Invocation), {param.name for param in self.params}
        for name, flag, is_given in (("json", "--json", given.json), ("data_dir", "--data-dir", given.data_dir)):
            if is_given and name not in own:
                raise click.UsageError(f"`{ctx.command_path}` has no option {flag}", ctx)
        return super().invoke(ctx)


class RelayGroup(click.Group):
    """A group whose commands are listed in the order of their declaration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def group(name: str, summary: str) -> RelayGroup:
    """Create an empty group of commands. A call without a command prints its help."""
    return RelayGroup(name, short_help=summary, help=summary, context_settings=CONTEXT)


def command(
    name: str,
    summary: str,
    *,
    of: RelayGroup | None = None,
    more: str = "",
    json: bool = False,
    data_dir: bool = True,
) -> Callable[[Callable[..., int]], RelayCommand]:
    """Declare a command by its function, which returns the exit code.

    The function takes the `Invocation`, then the parameters. The help text is ``summary`` and ``more``. ``of`` is the group
    that the command belongs to.
    """

    def declare(function: Callable[..., int]) -> RelayCommand:
        callback: Callable[..., int] = click.pass_obj(function)
        if json:
            callback = json_option(callback)
        if data_dir:
            callback = data_dir_option(callback)
        declared = click.command(
            name, RelayCommand, short_help=summary, help=f"{summary} {more}".strip(), context_settings=CONTEXT
        )(callback)
        if of is not None:
            of.add_command(declared)
        return declared

    return declare


def data_dir_option(function: F) -> F:
    """Add `--data-dir`, stored in the `Invocation`."""
    return click.option(
        "--data-dir",
        type=FilePath(),
        metavar="DIR",
        expose_value=False,
        callback=_store_data_dir,
        help="Data directory of `relay up`. Default: RELAY_DATA_DIR, else .relay.",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`, stored in the `Invocation`."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_store_json,
        help="Print one JSON document and nothing else.",
    )(function)


def _store_data_dir(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).data_dir = value


def _store_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Invocation).json = True


class Text(click.ParamType[str]):
    """Text that can be stored: valid UTF-8."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("is not valid UTF-8 text", param, ctx)
        return str(value)


class FilePath(click.ParamType[Path]):
    """A path, which may not exist. The shell completes it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if value == "":
            self.fail("must not be empty", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class Whole(click.ParamType[int]):
    """A whole number from ``low`` to ``high``, both included; None is no limit."""

    name = "integer"

    def __init__(self, low: int | None = None, high: int | None = None) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            self.fail(f"must be {self.limits()}", param, ctx)
        return number

    def limits(self) -> str:
        """Return the limits in words, or an empty text without limits."""
        return "" if self.low is None else f"from {self.low} to {self.high}"


class Number(click.ParamType[float]):
    """A number from ``low`` to ``high``, both included."""

    name = "number"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not self.low <= number <= self.high:  # NaN is outside as well
            self.fail(f"must be {self.limits()}", param, ctx)
        return number

    def limits(self) -> str:
        """Return the limits in words."""
        return f"from {self.low:.10g} to {self.high:.10g}"


class Duration(click.ParamType[timedelta]):
    """A length of time like ``90d``, ``12h``, ``30m`` or ``10s``; 0 needs no unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = _DURATION.fullmatch(value)
        if match is None or (not match[2] and int(match[1])):
            self.fail(f"{value!r} is not a length of time; write it like 90d, 12h, 30m or 10s", param, ctx)
        return int(match[1]) * timedelta(**{_UNITS[match[2] or "s"]: 1})
