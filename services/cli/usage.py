"""`relay usage verify` and `relay usage rebuild`: prove what is stored, and mend it."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shared.audit.difference import Difference, Found
from shared.audit.proof import Checked
from shared.audit.verify import verify
from shared.clock import DAY_MS, rfc3339
from shared.models.scope import AuditScope, DayRange
from shared.postgres import Connection, connect
from shared.queries import audit as queries
from shared.settings import DatabaseUrl

# A state that the fold changes in the moment of its mending is left to the next pass.
_PASSES = 3
Show = Callable[[Difference], None]


def day(text: str) -> int:
    """An argparse type: a UTC day as unix ms of its midnight."""
    try:
        parsed = date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2026-06-18") from None
    return int(datetime(parsed.year, parsed.month, parsed.day, tzinfo=UTC).timestamp()) * 1000


def span_of(first_ms: int | None, last_ms: int | None) -> DayRange | None:
    """From the first day to the last, both included; None for all there is."""
    if first_ms is None and last_ms is None:
        return None
    return DayRange(first_ms or 0, (last_ms if last_ms is not None else 4_102_444_800_000) + DAY_MS)


def run(arguments: argparse.Namespace, database: DatabaseUrl) -> int:
    """0 if all is as it should be (after mending, for a rebuild), 1 if not."""
    span = span_of(arguments.first, arguments.last)
    report = _JsonReport(span) if arguments.json else _TextReport()
    checked = Checked()
    started = time.monotonic()
    if arguments.rebuild:
        found, left = asyncio.run(_rebuild(database, span, checked, report.show))
    else:
        found = left = asyncio.run(_verify(database, span, checked, report.show))
    report.end(checked, found, left, arguments.rebuild, time.monotonic() - started)
    return 1 if left else 0


async def _verify(database: DatabaseUrl, span: DayRange | None, checked: Checked, show: Show) -> int:
    conn = await connect(database, "relay usage verify")
    try:
        async with _Bar(conn, "verify") as bar:
            return await _count(verify(conn, span, checked, bar.done), show)
    finally:
        await conn.close()


async def _rebuild(database: DatabaseUrl, span: DayRange | None, checked: Checked, show: Show) -> tuple[int, int]:
    """(how many differences were found, how many are left)."""
    from services.worker.audit import rebuild

    reader, writer = await connect(database, "relay usage rebuild"), await connect(database, "relay usage rebuild")
    try:
        found = left = 0
        for number in range(_PASSES):
            again = Checked()
            async with _Bar(reader, "rebuild") as bar:
                now_ms = time.time_ns() // 1_000_000
                count = await _count(
                    rebuild(reader, writer, span, checked if not number else again, now_ms, bar.done),
                    show if not number else lambda _: None,
                )
            found, left = (count, count) if not number else (found, count)
            if not count:
                break
        if left:
            async with _Bar(reader, "verify") as bar:
                left = await _count(verify(reader, span, Checked(), bar.done), lambda _: None)
        return found, left
    finally:
        await reader.close()
        await writer.close()


async def _count(stream: AsyncIterator[Found], show: Show) -> int:
    count = 0
    async for found in stream:
        show(found.difference)
        count += 1
    return count


class _Bar:
    """Progress by scopes, weighed by their sessions, on stderr where that is a terminal."""

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

    async def __aenter__(self) -> "_Bar":
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


class _TextReport:
    def show(self, difference: Difference) -> None:
        owner = f"{difference.project_id} {difference.mode}" if difference.project_id else "nobody's"
        print(f"{difference.table}  {owner}  {difference.key}")
        for name, (stored, right) in difference.fields.items():
            print(f"    {name}: {_shown(stored)} stored, {_shown(right)} right")

    def end(self, checked: Checked, found: int, left: int, rebuilt: bool, seconds: float) -> None:
        print(
            f"{checked.states} sessions, rooms and runs and {checked.rollups} rollups against {checked.events} events in"
            f" {seconds:.1f} s"
        )
        if checked.unproven:
            print(f"{checked.unproven} of them began before the events that are still kept; these had to agree in part")
        if not found:
            print("no difference")
        elif rebuilt:
            print(f"{found} differences, {left} left" + ("; the fold was at them, try again" if left else ""))
        else:
            print(f"{found} differences; `relay usage rebuild` writes what is right")


def _shown(value: object) -> str:
    text = "nothing" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:200] + "…"


class _JsonReport:
    """One document, written as it becomes known: there may be more differences than fit into memory."""

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
