"""A range of time, cut into UTC hours, days or months."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from shared.infra.clock import DAY_MS, HOUR_MS, floor_to

Granularity = Literal["hour", "day", "month"]
GRANULARITIES: Final[tuple[Granularity, Granularity, Granularity]] = ("hour", "day", "month")


class Span(NamedTuple):
    """``[from_ms, to_ms)``, cut into UTC hours, days or months. Both are full hours; for days and months, midnights: the first
    and the last month may be part of one."""

    from_ms: int
    to_ms: int
    granularity: Granularity

    @property
    def unit_ms(self) -> int:
        """What queries sum up by. Months have no one length: they are put together of days."""
        return HOUR_MS if self.granularity == "hour" else DAY_MS

    def starts(self) -> Iterator[int]:
        """The start of each of its pieces, ascending, without gaps: each reaches up to the next one's, or the end."""
        if self.granularity != "month":
            yield from range(self.from_ms, self.to_ms, self.unit_ms)
            return
        at_ms = self.from_ms
        while at_ms < self.to_ms:
            yield at_ms
            at_ms = following(start_of(at_ms, "month"), "month")

    def piece_of(self, at_ms: int) -> int:
        """The start of the piece that an instant of the span lies in."""
        return max(self.from_ms, start_of(at_ms, self.granularity))


def start_of(at_ms: int, granularity: Granularity) -> int:
    """The start of the UTC hour, day or month that ``at_ms`` lies in."""
    if granularity == "month":
        month = datetime.fromtimestamp(at_ms // 1000, UTC).replace(day=1)
        return floor_to(int(month.timestamp()) * 1000, DAY_MS)
    return floor_to(at_ms, HOUR_MS if granularity == "hour" else DAY_MS)


def following(start_ms: int, granularity: Granularity) -> int:
    """The start of the hour, day or month after the one that starts at ``start_ms``."""
    if granularity == "month":
        return start_of(start_ms + 31 * DAY_MS, "month")
    return start_ms + (HOUR_MS if granularity == "hour" else DAY_MS)
