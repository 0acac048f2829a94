"""Sum the usage of open sessions from the edges of their intervals."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shared.metering.rounding import Amounts

# The meter that an edge belongs to, in the order of ``Amounts``.
PARTICIPANT, VIDEO, SCREEN_SHARE = range(3)


class EdgeSum(NamedTuple):
    """The edges of one kind and meter in the hour or day that begins at ``start_ms``.

    ``behind_ms``: the sum of the times from each edge to the end of this hour or day. ``level``: the number of intervals that
    cover every later hour or day completely. An end counts negative in both. The cost does not depend on the length of the
    sessions.
    """

    start_ms: int
    kind: str
    meter: int
    behind_ms: int
    level: int


def open_usage(
    edges: Iterable[EdgeSum], begun: Iterable[tuple[int, str, int]], to_ms: int, unit_ms: int
) -> Iterator[tuple[int, str, Amounts]]:
    """Yield (start, kind, amounts) of every hour or day before ``to_ms`` that an open session has reached.

    ``begun``: (start, kind, sessions that began). All connected time is provisional.
    """
    sums: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * 4)
    by_meter: defaultdict[tuple[str, int], dict[int, EdgeSum]] = defaultdict(dict)
    for start_ms, kind, sessions in begun:
        sums[start_ms, kind][3] = sessions
    for edge in edges:
        by_meter[edge.kind, edge.meter][edge.start_ms] = edge
    for (kind, meter), of_meter in by_meter.items():
        level = 0
        for start_ms in range(min(of_meter), to_ms, unit_ms):
            amount = level * unit_ms
            if start_ms in of_meter:
                amount += of_meter[start_ms].behind_ms
                level += of_meter[start_ms].level
            if amount:
                sums[start_ms, kind][meter] += amount
    for (start_ms, kind), (participant_ms, video_ms, screen_share_ms, sessions) in sums.items():
        yield start_ms, kind, Amounts(participant_ms, video_ms, screen_share_ms, 0, participant_ms, sessions)
