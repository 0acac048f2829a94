"""Cut a range of time into UTC hours, days or months. All times are unix milliseconds."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from shared.infra.clock import DAY_MS, HOUR_MS, floor_to

Granularity = Literal["hour", "day", "month"]
GRANULARITIES: Final[tuple[Granularity, Granularity, Granularity]] = ("hour", "day", "month")


class Span(NamedTuple):
    """The range ``[from_ms, to_ms)``, cut into UTC hours, days or months.

    Both ends are full hours; for days and months they are midnights. The first and the last month may be incomplete.
    """

    from_ms: int
    to_ms: int
    granularity: Granularity

    @property
    def unit_ms(self) -> int:
        """Return the unit by which queries sum (ms). Months have no fixed length, so they are made of days."""
        return HOUR_MS if self.granularity == "hour" else DAY_MS

    def starts(self) -> Iterator[int]:
        """Yield the start of each piece, ascending. A piece ends where the next begins, the last at ``to_ms``."""
        if self.granularity != "month":
            yield from range(self.from_ms, self.to_ms, self.unit_ms)
            return
        at_ms = self.from_ms
        while at_ms < self.to_ms:
            yield at_ms
            at_ms = following(start_of(at_ms, "month"), "month")

    def piece_of(self, at_ms: int) -> int:
        """Return the start of the piece that contains ``at_ms``, an instant of the span."""
        return max(self.from_ms, start_of(at_ms, self.granularity))


def start_of(at_ms: int, granularity: Granularity) -> int:
    """Return the start of the UTC hour, day or month that contains ``at_ms``."""
    if granularity == "month":
        month = datetime.fromtimestamp(at_ms // 1000, UTC).replace(day=1)
        return floor_to(int(month.timestamp()) * 1000, DAY_MS)
    return floor_to(at_ms, HOUR_MS if granularity == "hour" else DAY_MS)


def following(start_ms: int, granularity: Granularity) -> int:
    """Return the start of the hour, day or month after the one that starts at ``start_ms``."""
    if granularity == "month":
        return start_of(start_ms + 31 * DAY_MS, "month")
    return start_ms + (HOUR_MS if granularity == "hour" else DAY_MS)
