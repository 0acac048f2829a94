"""Run `relay usage verify` and `relay usage rebuild` and report the differences."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from services.cli.failures import DocumentEnded, failure_of
from services.cli.usage.report import JsonReport, ProgressBar, TextReport
from shared.infra.clock import DAY_MS
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl
from shared.ledger.difference import Difference, Found
from shared.ledger.proof import Checked
from shared.ledger.verify import verify
from shared.models.scope import DayRange

# The fold can change a state while it is rebuilt. The next pass rebuilds that state.
_PASSES = 3
Show = Callable[[Difference], None]


def span_of(first_ms: int | None, last_ms: int | None) -> DayRange | None:
    """Return the range from the first day to the last, both included. None is everything."""
    if first_ms is None and last_ms is None:
        return None
    return DayRange(first_ms or 0, (last_ms if last_ms is not None else 4_102_444_800_000) + DAY_MS)


def run(database: DatabaseUrl, span: DayRange | None, *, rebuilds: bool, json: bool) -> int:
    """Print every difference and return the exit code.

    The code is 0 if the stored usage is right at the end, 1 if a difference is left. A rebuild writes before it counts
    what is left.
    """
    report = JsonReport(span) if json else TextReport()
    checked = Checked()
    started = time.monotonic()
    try:
        if rebuilds:
            found, left = asyncio.run(_rebuild(database, span, checked, report.show))
        else:
            found = left = asyncio.run(_verify(database, span, checked, report.show))
    except Exception as error:
        failure = failure_of(error)
        if failure is None or isinstance(report, TextReport):
            raise
        report.fail(failure)
        raise DocumentEnded(failure) from error
    report.end(checked, found, left, rebuilds, time.monotonic() - started)
    return 1 if left else 0


async def _verify(database: DatabaseUrl, span: DayRange | None, checked: Checked, show: Show) -> int:
    conn = await connect(database, "relay usage verify")
    try:
        async with ProgressBar(conn, "verify") as bar:
            return await _count(verify(conn, span, checked, bar.done), show)
    finally:
        await conn.close()


async def _rebuild(database: DatabaseUrl, span: DayRange | None, checked: Checked, show: Show) -> tuple[int, int]:
    """Rebuild in up to three passes. Return the number of differences found, and the number left."""
    from shared.ledger.rebuild import rebuild

    reader, writer = await connect(database, "relay usage rebuild"), await connect(database, "relay usage rebuild")
    try:
        found = left = 0
        for number in range(_PASSES):
            again = Checked()
            async with ProgressBar(reader, "rebuild") as bar:
                now_ms = time.time_ns() // 1_000_000
                count = await _count(
                    rebuild(reader, writer, span, checked if not number else again, now_ms, bar.done),
                    show if not number else lambda _: None,
                )
            found, left = (count, count) if not number else (found, count)
            if not count:
                break
        if left:
            async with ProgressBar(reader, "verify") as bar:
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
