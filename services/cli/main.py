"""Entry point of the `relay` command."""

import os
import sys
from io import TextIOWrapper

import click

from services.cli.failures import FAILED, WRONG_USAGE, DocumentEnded, failure_of
from services.cli.options import Invocation
from services.cli.output import print_error, print_json
from services.cli.tree import relay

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    invocation = Invocation()
    try:
        code = _run(arguments, invocation)
        sys.stdout.flush()  # raises here if the reader has ended
        return code
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has ended. Python would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        print_error(*failure.lines)
        wants_json = invocation.json or (isinstance(error, click.UsageError) and _has_json_flag(arguments))
        if wants_json and not isinstance(error, DocumentEnded):
            print_json({"error": failure.document()})
        return failure.exit_code


def _run(arguments: list[str], invocation: Invocation) -> int:
    try:
        with relay.make_context("relay", arguments, obj=invocation) as context:
            return int(relay.invoke(context) or 0)
    except click.exceptions.Exit as end:  # raised by --help and --version
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        if error.ctx is None or invocation.json:
            raise click.UsageError("a command is required", error.ctx) from None
        click.echo(error.ctx.get_help())
        return WRONG_USAGE


def _has_json_flag(arguments: list[str]) -> bool:
    """Return whether a command line that cannot be parsed contains ``--json``."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


if __name__ == "__main__":
    sys.exit(main())
