"""A range is cut into pieces without gaps, and every instant belongs to one piece."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from shared.infra.clock import DAY_MS, HOUR_MS
from shared.metering.span import GRANULARITIES, Granularity, Span, following, start_of


def ms(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)


@given(st.sampled_from(GRANULARITIES), st.integers(0, 30_000), st.integers(1, 100), st.integers(0, 10**9))
def test_pieces_are_contiguous_and_contain_their_instants(
    granularity: Granularity, first_day: int, length: int, offset: int
) -> None:
    unit_ms = HOUR_MS if granularity == "hour" else DAY_MS
    span = Span(first_day * DAY_MS, first_day * DAY_MS + length * unit_ms, granularity)
    starts = list(span.starts())
    assert starts[0] == span.from_ms
    assert starts == sorted(set(starts))
    at_ms = span.from_ms + offset % (span.to_ms - span.from_ms)
    piece_ms = span.piece_of(at_ms)
    assert piece_ms == max(start for start in starts if start <= at_ms)
    assert span.to_ms <= following(start_of(starts[-1], granularity), granularity)


def test_months_follow_the_calendar_and_may_be_partial_at_the_edges() -> None:
    span = Span(ms(2024, 1, 15), ms(2024, 3, 2), "month")
    assert list(span.starts()) == [ms(2024, 1, 15), ms(2024, 2, 1), ms(2024, 3, 1)]
    assert following(ms(2024, 12, 1), "month") == ms(2025, 1, 1)
