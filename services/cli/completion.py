"""`relay completion`: print a script with which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

from services.cli.options import Invocation, command
from services.cli.tree import COMPLETION_VARIABLE, relay


@command("completion", "Print a script that makes a shell complete `relay`.", data_dir=False)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
def completion(_: Invocation, shell: str) -> int:
    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 - click has a class for every choice
    print(complete(relay, {}, "relay", COMPLETION_VARIABLE).source(), end="")
    return 0
