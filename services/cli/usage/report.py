"""Print what `relay usage` finds: differences, a summary and a progress bar."""

import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from services.cli.failures import Failure
from shared.infra.clock import rfc3339
from shared.infra.postgres.pool import Connection
from shared.ledger.difference import Difference
from shared.ledger.proof import Checked
from shared.ledger.queries import audit as queries
from shared.models.scope import AuditScope, DayRange


class ProgressBar:
    """A progress bar on stderr, if that is a terminal. A scope counts by its number of sessions."""

    def __init__(self, conn: Connection, what: str) -> None:
        self._conn = conn
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(what)
        self._weights: dict[AuditScope, int] = {}

    async def __aenter__(self) -> "ProgressBar":
        if not self._progress.disable:
            for scope in await queries.scopes(self._conn):
                self._weights[scope] = await queries.weight(self._conn, scope)
            self._progress.update(self._task, total=sum(self._weights.values()))
        self._progress.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._progress.stop()

    def done(self, scope: AuditScope) -> None:
        self._progress.advance(self._task, self._weights.get(scope, 0))


class TextReport:
    """Differences and a summary as text."""

    def show(self, difference: Difference) -> None:
        owner = f"{difference.project_id} {difference.mode}" if difference.project_id else "no project"
        print(f"{difference.table}  {owner}  {difference.key}")
        for name, (stored, right) in difference.fields.items():
            print(f"    {name}: stored {_shown(stored)}, should be {_shown(right)}")

    def end(self, checked: Checked, found: int, left: int, rebuilt: bool, seconds: float) -> None:
        print(
            f"checked {checked.states} sessions, rooms and runs and {checked.rollups} rollups against {checked.events} events"
            f" in {seconds:.1f} s"
        )
        if checked.unproven:
            print(f"{checked.unproven} of them began before the oldest stored event, so they were checked in part only")
        if not found:
            print("no difference")
        elif rebuilt:
            print(
                f"{found} differences, {left} left" + ("; the fold was changing them, so run it again" if left else "")
            )
        else:
            print(f"{found} differences; `relay usage rebuild` corrects them")


def _shown(value: object) -> str:
    text = "nothing" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:200] + "…"


class JsonReport:
    """One JSON document, written piece by piece, since the differences may not fit into memory."""

    def __init__(self, span: DayRange | None) -> None:
        ends: dict[str, Any] = {"from": None, "to": None}
        if span is not None:
            ends = {"from": rfc3339(span.from_ms), "to": rfc3339(span.to_ms)}
        sys.stdout.write(msgspec.json.encode(ends).decode()[:-1] + ',"differences":[')
        self._first = True

    def show(self, difference: Difference) -> None:
        sys.stdout.write(("" if self._first else ",") + "\n" + msgspec.json.encode(difference).decode())
        self._first = False

    def end(self, checked: Checked, found: int, left: int, rebuilt: bool, seconds: float) -> None:
        summary = {
            "found": found,
            "left": left,
            "statesChecked": checked.states,
            "statesOlderThanEvents": checked.unproven,
            "rollupsChecked": checked.rollups,
            "eventsRead": checked.events,
            "seconds": round(seconds, 3),
        }
        sys.stdout.write("],\n" + msgspec.json.encode(summary).decode()[1:] + "\n")

    def fail(self, failure: Failure) -> None:
        """End the document with an error instead of the summary."""
        sys.stdout.write("],\n" + msgspec.json.encode({"error": failure.document()}).decode()[1:] + "\n")
