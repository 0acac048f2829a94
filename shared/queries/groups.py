"""Usage by room and by identity: rollups by UTC day, and pages of them by name.

A page costs (days of the range) x (names of the page) rows, however many rooms or identities there are: a name among the first
n of the whole range is among the first n of each day it has a row in.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from shared.metering.usage import Usage
from shared.postgres import Connection

Dimension = Literal["room", "identity"]
DIMENSIONS: Final[tuple[Dimension, Dimension]] = ("room", "identity")


class GroupKey(NamedTuple):
    """One row of the rollup; ``day`` is unix ms of the UTC day's start."""

    project_id: str
    mode: str
    dimension: Dimension
    day: int
    name: str


class GroupUsage(NamedTuple):
    """Milliseconds of a day; ``visits`` counts the sessions connected in it, ``sessions`` those that began in it."""

    usage: Usage
    visits: int


async def add_group_usage(conn: Connection, changes: Mapping[GroupKey, GroupUsage]) -> None:
    """Adds differences (which may be negative) to the rollups, and to the number of names of each day. The scopes must be
    locked (``lock_scopes``)."""
    keys = sorted(changes)
    await conn.execute(
        "WITH n AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[],"
        " $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]) AS n (project_id, mode, dimension, day, name,"
        " participant_ms, video_ms, screen_share_ms, inferred_ms, sessions, visits)),"
        " written AS (INSERT INTO usage_group AS g SELECT * FROM n ON CONFLICT (project_id, mode, dimension, day, name)"
        " DO UPDATE SET participant_ms = g.participant_ms + excluded.participant_ms,"
        " video_ms = g.video_ms + excluded.video_ms, screen_share_ms = g.screen_share_ms + excluded.screen_share_ms,"
        " inferred_ms = g.inferred_ms + excluded.inferred_ms, sessions = g.sessions + excluded.sessions,"
        " visits = g.visits + excluded.visits RETURNING project_id, mode, dimension, day, name, visits),"
        # A name counts while somebody visited; what was there before is what is there now without this difference.
        " counted AS (SELECT project_id, mode, dimension, day,"
        " sum((w.visits > 0)::int - (w.visits - n.visits > 0)::int) AS names"
        " FROM written w JOIN n USING (project_id, mode, dimension, day, name) GROUP BY project_id, mode, dimension, day)"
        " INSERT INTO usage_group_count AS c SELECT * FROM counted WHERE names <> 0"
        " ON CONFLICT (project_id, mode, dimension, day) DO UPDATE SET names = c.names + excluded.names",
        [key.project_id for key in keys],
        [key.mode for key in keys],
        [key.dimension for key in keys],
        [key.day for key in keys],
        [key.name for key in keys],
        *([changes[key].usage[field] for key in keys] for field in range(5)),
        [changes[key].visits for key in keys],
    )
