"""Convert the exception of a command into an error message and an exit code."""

import sys
from typing import NamedTuple

import click

from shared.errors import RelayError, SettingsInvalid

FAILED = 1
WRONG_USAGE = 2
NO_TABLES = "the database has no tables, or those of an older Relay. Run `relay migrate`"
UNREACHABLE = "the database cannot be reached. Start `relay up`, or correct DATABASE_URL"


class Failure(NamedTuple):
    """The lines of an error message, and the exit code: 1 failed, 2 wrong usage or settings."""

    lines: list[str]
    exit_code: int

    def document(self) -> dict[str, object]:
        """Return the ``error`` of a JSON document."""
        return {"exitCode": self.exit_code, "message": "\n".join(self.lines)}


class DocumentEnded(Exception):
    """A command failed inside its JSON document, which holds the failure already."""

    def __init__(self, failure: Failure) -> None:
        super().__init__("\n".join(failure.lines))
        self.failure = failure


def failure_of(error: BaseException) -> Failure | None:
    """Return the message and the exit code for ``error``, or None if it is unexpected."""
    if isinstance(error, DocumentEnded):
        return error.failure
    if isinstance(error, click.UsageError):
        return Failure(_usage(error), WRONG_USAGE)
    if isinstance(error, SettingsInvalid):
        return Failure(error.lines, WRONG_USAGE)
    if isinstance(error, RelayError):
        return Failure([str(error)], FAILED)
    return _database(error)


def _database(error: BaseException) -> Failure | None:
    # If asyncpg is not loaded, the error is not from a database: psycopg is never loaded without it.
    # An import here would slow down every command.
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is not None:
        if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
            return Failure([NO_TABLES], FAILED)
        if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
            return Failure([f"Postgres refuses DATABASE_URL: {error}"], FAILED)
        if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.CannotConnectNowError):
            return Failure([UNREACHABLE], FAILED)
        from shared.infra.postgres.errors import query_problem

        if (line := query_problem(error)) is not None:
            return Failure([line], FAILED)
    return Failure([UNREACHABLE], FAILED) if isinstance(error, OSError) else None


def _usage(error: click.UsageError) -> list[str]:
    """Return what is wrong, and where the usage is described."""
    path = error.ctx.command_path if error.ctx is not None else "relay"
    return [_what(error), f"run `{path} --help` for its usage"]


def _what(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return f"there is no option {error.option_name}{_suggestion(error.possibilities)}"
    if isinstance(error, click.NoSuchCommand):
        return f"there is no command {error.command_name!r}{_suggestion(error.possibilities)}"
    if isinstance(error, click.MissingParameter):
        return f"{_name(error)} is required"
    if isinstance(error, click.BadParameter):
        return f"{_name(error)}: {_as_clause(error.message)}"
    return _as_clause(error.message)


def _name(error: click.BadParameter) -> str:
    """Return the option or argument, as it is typed."""
    param = error.param
    if param is None:
        return str(error.param_hint or "value")
    return param.opts[-1] if isinstance(param, click.Option) else str(param.metavar or param.name)


def _suggestion(possibilities: list[str] | None) -> str:
    return f"; did you mean {' or '.join(possibilities)}?" if possibilities else ""


def _as_clause(message: str) -> str:
    """Put a sentence of click's into the form of our own messages."""
    return message[:1].lower() + message[1:].removesuffix(".")
