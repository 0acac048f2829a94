"""Keys and values of the usage rollups. Hours and days are the unix ms of their UTC start."""

from typing import Final, Literal, NamedTuple

from shared.metering.hours import Usage

Dimension = Literal["room", "identity"]
DIMENSIONS: Final[tuple[Dimension, Dimension]] = ("room", "identity")


class RollupKey(NamedTuple):
    """Key of one row in `usage_hour`."""

    project_id: str
    mode: str
    hour: int
    kind: str


class MediaKey(NamedTuple):
    """Key of one row in `media_hour`. ``meter`` is `egress` or `ingress`."""

    project_id: str
    mode: str
    hour: int
    meter: str
    type: str


class GroupKey(NamedTuple):
    """Key of one row in `usage_group`."""

    project_id: str
    mode: str
    dimension: Dimension
    day: int
    name: str


class GroupUsage(NamedTuple):
    """Usage of one room or identity on one day.

    ``visits`` counts connected sessions, ``usage.sessions`` those that began.
    """

    usage: Usage
    visits: int


class DayDifference(NamedTuple):
    """By how many milliseconds a day changed after it was over. May be negative."""

    participant_ms: int
    video_ms: int
