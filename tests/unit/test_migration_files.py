"""Migrations are numbered without gaps, and each has a rollback."""

import re
from collections.abc import Iterator, Sequence

import pytest

from shared.infra.migrations.schema import MIGRATIONS

NAME = re.compile(r"(\d{4})\.[a-z0-9]+(-[a-z0-9]+)*\.sql")


def faults(files: Sequence[str]) -> Iterator[str]:
    """What is wrong with the names in the folder."""
    forward = sorted(name for name in files if not name.endswith(".rollback.sql"))
    for place, name in enumerate(forward, 1):
        match = NAME.fullmatch(name)
        if match is None:
            yield f"{name}: not NNNN.what-it-does.sql"
        elif int(match[1]) != place:
            yield f"{name}: {place:04} comes next"
        if name.removesuffix(".sql") + ".rollback.sql" not in files:
            yield f"{name}: no rollback"
    for name in sorted(files):
        if name.endswith(".rollback.sql") and name.removesuffix(".rollback.sql") + ".sql" not in files:
            yield f"{name}: rolls back nothing"


def test_migration_files_are_numbered_and_have_rollbacks() -> None:
    files = [path.name for path in MIGRATIONS.iterdir()]
    assert len(files) >= 16
    assert list(faults(files)) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (["0002.b.sql", "0002.b.rollback.sql"], "0002.b.sql: 0001 comes next"),
        (["0001.a.sql", "0001.a.rollback.sql", "0003.b.sql", "0003.b.rollback.sql"], "0003.b.sql: 0002 comes next"),
        (["0001.a.sql", "0001.a.rollback.sql", "0001.b.sql", "0001.b.rollback.sql"], "0001.b.sql: 0002 comes next"),
        (["0001.a.sql"], "0001.a.sql: no rollback"),
        (["0001.a.rollback.sql"], "0001.a.rollback.sql: rolls back nothing"),
        (["1.a.sql", "1.a.rollback.sql"], "1.a.sql: not NNNN.what-it-does.sql"),
        (["0001.A_b.sql", "0001.A_b.rollback.sql"], "0001.A_b.sql: not NNNN.what-it-does.sql"),
        (["0001.a.sql", "0001.a.rollback.sql", "notes.txt"], "notes.txt: not NNNN.what-it-does.sql"),
    ],
)
def test_fault_in_the_migration_files_is_detected(files: list[str], fault: str) -> None:
    assert fault in faults(files)
