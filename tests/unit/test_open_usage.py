"""Usage of open sessions by hour equals the sum of each interval cut hour by hour."""

from collections import defaultdict
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from shared.metering.open_usage import PARTICIPANT, SCREEN_SHARE, VIDEO, EdgeSum, open_usage
from shared.metering.rounding import Amounts

UNIT_MS = 1000
FROM_MS, TO_MS = 10_000, 20_000


class Covered(NamedTuple):
    """An open session of a kind whose ``meter`` runs over ``[start_ms, end_ms)``."""

    kind: str
    meter: int
    start_ms: int
    end_ms: int


def edge_sums(intervals: list[Covered]) -> list[EdgeSum]:
    """Compute what the statement of usage_ranges returns: edges clipped to the range and summed by hour."""
    sums: defaultdict[tuple[int, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for kind, meter, start_ms, end_ms in intervals:
        for at_ms, sign in ((start_ms, 1), (end_ms, -1)):
            clipped_ms = min(max(at_ms, FROM_MS), TO_MS)
            found = sums[clipped_ms - clipped_ms % UNIT_MS, kind, meter]
            found[0] += sign * (UNIT_MS - clipped_ms % UNIT_MS)
            found[1] += sign
    return [EdgeSum(start_ms, kind, meter, *found) for (start_ms, kind, meter), found in sums.items()]


intervals = st.lists(
    st.builds(
        lambda kind, meter, start_ms, length_ms: Covered(kind, meter, start_ms, start_ms + length_ms),
        st.sampled_from(["STANDARD", "AGENT"]),
        st.sampled_from([PARTICIPANT, VIDEO, SCREEN_SHARE]),
        st.integers(0, 2 * TO_MS),
        st.integers(0, TO_MS),
    ),
    max_size=8,
)


@given(intervals)
def test_edge_sums_yield_the_time_covered_by_intervals(given_intervals: list[Covered]) -> None:
    expected: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for kind, meter, start_ms, end_ms in given_intervals:
        for hour_ms in range(FROM_MS, TO_MS, UNIT_MS):
            covered_ms = min(end_ms, hour_ms + UNIT_MS) - max(start_ms, hour_ms)
            expected[hour_ms, kind][meter] += max(0, covered_ms)
    found = {
        (start_ms, kind): [amounts.participant_ms, amounts.video_ms, amounts.screen_share_ms]
        for start_ms, kind, amounts in open_usage(edge_sums(given_intervals), [], TO_MS, UNIT_MS)
    }
    assert found == {key: amounts for key, amounts in expected.items() if any(amounts)}


def test_open_time_is_provisional_and_sessions_count_at_their_start() -> None:
    """A session that just began has no time yet, but counts as a session."""
    edges = edge_sums([Covered("STANDARD", PARTICIPANT, 12_500, 14_250)])
    found = {
        (start_ms, kind): amounts
        for start_ms, kind, amounts in open_usage(edges, [(12_000, "STANDARD", 1), (13_000, "SIP", 2)], TO_MS, UNIT_MS)
    }
    assert found == {
        (12_000, "STANDARD"): Amounts(500, 0, 0, 0, 500, 1),
        (13_000, "STANDARD"): Amounts(1000, 0, 0, 0, 1000, 0),
        (14_000, "STANDARD"): Amounts(250, 0, 0, 0, 250, 0),
        (13_000, "SIP"): Amounts(0, 0, 0, 0, 0, 2),
    }


def test_no_open_session_yields_no_usage() -> None:
    assert list(open_usage([], [], TO_MS, UNIT_MS)) == []
