"""Rank the rooms or identities of a project by connected time, unless there are too many to add up."""

from typing import Final

from shared.infra.postgres.pool import Connection
from shared.models.scope import Scope
from shared.models.usage.ranges import TopGroups, UsageClock
from shared.models.usage.rollups import Dimension
from shared.usage.queries import groups as queries

# Rows (days x names of each day) that are added up for a ranking. This many take about 100 ms.
MAX_ROWS_TO_RANK: Final = 200_000


async def top_groups(
    conn: Connection,
    scope: Scope,
    dimension: Dimension,
    days: tuple[int, int],
    clock: UsageClock,
    limit: int,
    most_rows: int | None = None,
) -> TopGroups | None:
    """Return the ``limit`` names with the most connected time. None if ``days`` hold too many rows.

    ``days``: two midnights (unix ms). ``most_rows``: the greatest number of rows; at most ``MAX_ROWS_TO_RANK``.
    """
    most_rows = min(most_rows or MAX_ROWS_TO_RANK, MAX_ROWS_TO_RANK)
    # The number of rows of ended sessions is stored, so a refusal is cheap.
    if await queries.count_group_rows(conn, scope, dimension, days) > most_rows:
        return None
    top, rows = await queries.greatest_groups(conn, scope, dimension, days, clock, most_rows + 1, limit)
    return None if rows > most_rows else top
