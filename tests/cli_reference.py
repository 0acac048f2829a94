"""Writes docs/cli.md from the command tree: `python -m tests.cli_reference`."""

from collections.abc import Iterator
from pathlib import Path

import click

from services.cli.options import Duration, Number, Whole
from services.cli.tree import Deferred, relay

PAGE = Path(__file__).resolve().parents[1] / "docs/cli.md"
SHARED = {"data_dir": "--data-dir", "json": "--json"}
_HEAD = """\
# The `relay` command

Every command, argument and option. `python -m tests.cli_reference` writes this page from the code, and a test compares them.
Run `relay COMMAND --help` for the usage of one command; `relay --version` prints the version.

## Shared options

`--data-dir` and `--json` stand before or after the command: `relay --json projects list` is `relay projects list --json`.
A command that does not have the option refuses it.

| option | meaning |
|---|---|
| `--data-dir DIR` | the data directory of the `relay up` in question. Default: `RELAY_DATA_DIR`, else `.relay` |
| `--json` | print exactly one JSON document on stdout and nothing else |

A variable of the environment, such as `DATABASE_URL`, comes before what is stored in the data directory.

## Exit codes and errors

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or found something: an error (`doctor`), a difference (`usage verify`), a lost event (`simulate`) |
| 2 | wrong usage or settings. Also after the help of `relay` or a group called without a command |
| 130 | ended by Ctrl-C, for commands that do not run a service |

Error messages go to stderr, each line after `relay: `. With `--json`, stdout then holds
`{"error": {"exitCode": 2, "message": "..."}}`. `usage verify` and `usage rebuild` write their document piece by piece: if
they fail on the way, `error` stands in the same document, after the differences found so far. A command that exits with 1
because of what it found prints its normal document.

## Completion

Add the line for your shell to its start-up file. `relay` must be on the `PATH`.

| shell | line | file |
|---|---|---|
| bash 4.4 or later | `eval "$(relay completion bash)"` | `~/.bashrc` |
| zsh | `eval "$(relay completion zsh)"`, after `compinit` | `~/.zshrc` |
| fish | `relay completion fish \\| source` | `~/.config/fish/config.fish` |

## Commands
"""


def leaves(command: click.Command = relay, path: tuple[str, ...] = ("relay",)) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    if isinstance(command, Deferred):
        command = command.load()
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path), command


def page() -> str:
    """The text of docs/cli.md."""
    return _HEAD + "".join(_section(name, command) for name, command in leaves())


def _section(name: str, command: click.Command) -> str:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option)]
    shared = [flag for param, flag in SHARED.items() if param in {option.name for option in options}]
    usage = " ".join([name, *(str(argument.metavar) for argument in arguments)])
    text = f"\n### `{usage}`\n\n{command.help}"
    text += f" Shared options: {', '.join(f'`{flag}`' for flag in shared)}.\n" if shared else " No shared options.\n"
    rows = [_row(option) for option in options if option.name not in SHARED]
    if rows:
        text += "\n| option | default | meaning |\n|---|---|---|\n" + "".join(rows)
    return text


def _row(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or _values(option.type)}"
    default = "required" if option.required else ""
    if option.default and not option.is_flag and isinstance(option.default, str | int | float):
        default = f"`{option.default}`"
    if option.type.name in ("integer", "number") and option.default == 0:
        default = "`0`"
    meaning = str(option.help)
    if isinstance(option.type, Whole | Number) and option.metavar is None and option.type.limits():
        meaning += f" A number {option.type.limits()}."
    if isinstance(option.type, Duration):
        meaning += " Like `90d`, `12h`, `30m` or `10s`."
    return f"| `{option.opts[-1] if option.opts[-1].startswith('--') else option.opts[0]}{value}` | {default} | {meaning} |\n"


def _values(kind: click.ParamType[object]) -> str:
    return r"\|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else kind.name.upper()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
