"""Print JSON documents, tables and errors for all commands."""

import sys


def print_json(value: object) -> None:
    """Print ``value`` as the one JSON document of a command."""
    import msgspec  # slow to load, and `relay --help` does not need it

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print ``rows`` under ``columns``, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_error(*lines: str) -> None:
    """Print each line on stderr under the program's name."""
    for line in lines:
        print(f"relay: {line}", file=sys.stderr)
