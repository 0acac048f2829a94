"""The `relay` command. The commands are in services/cli/commands; what they do lives beside them. Each imports what it needs
when it runs, because an image carries only the parts of its own service."""

import argparse
import os
import sys

import asyncpg
import psycopg

from services.cli.command import fail
from services.cli.commands import accounts, keys, meter, operations, processes, projects
from shared.errors import RelayError, SettingsInvalid


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # so that a reader who left is noticed here
        return code
    except SettingsInvalid as error:
        return fail(*error.lines, code=2)
    except RelayError as error:
        return fail(str(error))
    except BrokenPipeError:
        # Whoever read along, `head` say, has enough. What Python would flush at its end has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        return fail("the database has no tables yet, or those of an older Relay; run `relay migrate`")
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        return fail(f"Postgres refuses DATABASE_URL: {error}")
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, psycopg.OperationalError):
        return fail("the database cannot be reached. Is `relay up` running, or DATABASE_URL set to the right place?")
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="relay", description="A gateway in front of LiveKit: keys, rooms, tokens, usage."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for subject in (processes, projects, keys, accounts, meter, operations):
        subject.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
