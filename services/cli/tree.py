"""The `relay` command and the list of its commands.

A command's module is loaded when the command is called.
"""

from importlib import import_module

import click

from services.cli.options import CONTEXT, Invocation, RelayGroup, data_dir_option, json_option
from shared.infra.version import VERSION

# The scripts of `relay completion` set this variable and call `relay` to ask for completions.
COMPLETION_VARIABLE = "_RELAY_COMPLETE"
# Name, module, summary. The module exports the command under the same name.
_COMMANDS = (
    ("up", "processes", "Run everything on this machine, with embedded Postgres and Redis."),
    ("api", "processes", "Run one API process, with settings from the environment."),
    ("worker", "processes", "Run workers, with settings from the environment."),
    ("migrate", "processes", "Apply the database migrations, then stop."),
    ("doctor", "doctor.cli", "Check the configuration and the running parts, and advise."),
    ("projects", "projects", "Create, list, rename, archive and restore projects."),
    ("keys", "keys", "Create, list, rotate and revoke API keys."),
    ("accounts", "accounts", "List and invite users of the portal."),
    ("usage", "usage.cli", "Verify stored usage, and rebuild it."),
    ("events", "events", "List, replay and delete events that could not be metered."),
    ("reconcile", "reconcile", "Compare the meter with LiveKit once and correct it."),
    ("simulate", "simulate.cli", "Send signed, realistic webhook traffic."),
    ("data", "data", "Erase personal data."),
    ("completion", "completion", "Print a script that makes a shell complete `relay`."),
)


class Deferred(click.Command):
    """Placeholder of a command in lists, until the command is called."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, short_help=summary, help=summary)
        self.module = module

    def load(self) -> click.Command:
        """Import the command."""
        loaded = getattr(import_module(f"services.cli.{self.module}"), str(self.name))
        assert isinstance(loaded, click.Command)  # noqa: S101 - a test loads every one
        return loaded


class Root(RelayGroup):
    """The top group. Its help and the completion of names load no command's module."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        bare = not args
        rest = super().parse_args(ctx, args)
        if bare and not ctx.resilient_parsing:
            raise click.exceptions.NoArgsIsHelpError(ctx)
        return rest

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, found.load() if isinstance(found, Deferred) else found, rest


def _complete(ctx: click.Context, _: click.Parameter, instruction: str | None) -> None:
    """Print completions and exit, if a shell asks for them."""
    if instruction is None or ctx.resilient_parsing:
        return
    from click.shell_completion import shell_complete

    ctx.exit(shell_complete(ctx.command, {"obj": Invocation()}, "relay", COMPLETION_VARIABLE, instruction))


@click.group(
    "relay",
    Root,
    no_args_is_help=False,
    context_settings=CONTEXT,
    help="A gateway in front of LiveKit: API keys, rooms, tokens, usage.",
)
@click.version_option(VERSION, prog_name="relay", message="%(prog)s %(version)s", help="Print the version and exit.")
@data_dir_option
@json_option
@click.option(
    "--complete", envvar=COMPLETION_VARIABLE, hidden=True, is_eager=True, expose_value=False, callback=_complete
)
def relay() -> None:
    """Accept the shared options. The command does the rest."""


for _name, _module, _summary in _COMMANDS:
    relay.add_command(Deferred(_name, _module, _summary))
