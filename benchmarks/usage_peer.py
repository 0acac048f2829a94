"""A peer of `GET /v1/usage` that aggregates the sessions of 30 days for each request, without rollups.

It has its best index, the same database, and no HTTP server.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from benchmarks.machine import console
from shared.infra.clock import rfc3339

Connection = psycopg.Connection[tuple[Any, ...]]
# The index holds all columns of the query, so that the table is not read.
_INDEX = (
    "CREATE INDEX bench_sessions ON session (project_id, mode, started_ms)"
    " INCLUDE (ended_ms, video_ms, room, identity) WHERE started_ms IS NOT NULL"
)
_SQL = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
STATEMENTS = dict(zip(("minutes and sessions", "everything that is answered"), _SQL.split(";\n"), strict=False))


class UsageQuestion(NamedTuple):
    """Return a project's live usage in ``[from_ms, to_ms)``. Both are midnights."""

    project_id: str
    from_ms: int
    to_ms: int

    def values(self) -> dict[str, Any]:
        return {"project": self.project_id, "from": self.from_ms, "to": self.to_ms}


@contextmanager
def indexed(url: str) -> Iterator[Connection]:
    """Open a connection, and create the peer's index for as long as the connection is open."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=1) as connection:
        # More than Postgres' default: it sorts in memory.
        connection.execute("SET maintenance_work_mem = '512MB'; SET work_mem = '128MB'")
        connection.execute("DROP INDEX IF EXISTS bench_sessions")
        started = time.perf_counter()
        connection.execute(_INDEX)
        connection.execute("VACUUM ANALYZE session")
        console.print(f"the peer's index: {time.perf_counter() - started:.0f} s")
        try:
            yield connection
        finally:
            connection.execute("DROP INDEX bench_sessions")


def time_ms(connection: Connection, statement: str, question: UsageQuestion) -> float:
    started = time.perf_counter()
    connection.execute(statement, question.values()).fetchall()
    return 1000 * (time.perf_counter() - started)


def check(connection: Connection, question: UsageQuestion, answer: dict[str, Any]) -> None:
    """Raise unless every day of the response equals the sum of the sessions, to the millisecond."""
    for statement in STATEMENTS.values():
        days = {row[0]: row[1:] for row in connection.execute(statement, question.values())}
        for day in answer["daily"]:
            at_ms = next((ms for ms in days if rfc3339(ms) == day["date"]), None)
            expected = days.get(at_ms, (0,) * 6) if at_ms is not None else (0,) * 6
            reported = (
                round(day["participantMinutes"] * 60_000), round(day["videoMinutes"] * 60_000), day["sessions"],
                day["rooms"], day["identities"], day["peakParticipants"],
            )  # fmt: skip
            if reported[: len(expected)] != tuple(value or 0 for value in expected):
                raise RuntimeError(
                    f"{day['date']}: {reported}, but the sessions add up to {expected}; nothing is reported"
                )
