"""The answer of `GET /v1/usage`. How minutes are rounded: shared/metering/rounding.py."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from shared.metering.span import Granularity
from shared.models.names import Timestamp
from shared.models.wire import Wire

Period = Literal["today", "7d", "30d", "all"]
GroupBy = Literal["room", "identity", "kind"]
Order = Literal["name", "minutes"]


class Minutes(Wire):
    """Connected time: each instant of it is video or audio."""

    participant_minutes: float
    video_minutes: float
    audio_minutes: float


class Metered(Minutes):
    """``participant_minutes`` once more by how sure it is: ``observed`` (an event told of the end), ``inferred`` (none did) and
    ``provisional`` (still open). ``screen_share_minutes`` is part of the video. ``sessions`` counts those that began."""

    screen_share_minutes: float
    observed_minutes: float
    inferred_minutes: float
    provisional_minutes: float
    sessions: int


class MediaMinutes(Wire):
    """Egress or ingress, a meter of its own: time that an egress or a run of an ingress was active."""

    minutes: float
    inferred_minutes: float
    provisional_minutes: float
    runs: int
    by_type: dict[str, float]


class UsageTotals(Metered):
    egress: MediaMinutes
    ingress: MediaMinutes


class ChangedMinutes(Minutes):
    """By how much; may be negative."""


class LateChange(ChangedMinutes):
    """The last change of a day that was over: when, by how much, and by how much in all since it was over."""

    at: Timestamp
    total: ChangedMinutes


class UsageOfSpan(UsageTotals):
    """A UTC hour, day or month, which starts at ``date``. ``rooms``, ``identities`` (how many different ones were there) and
    ``late_change`` are of days."""

    date: Timestamp
    peak_participants: int
    rooms: int | UnsetType = UNSET
    identities: int | UnsetType = UNSET
    late_change: LateChange | UnsetType = UNSET


class UsageOfKind(Metered):
    """A kind's part of the hour, day or month that starts at ``date``."""

    date: Timestamp


class UsageOfGroup(Metered):
    """A room's, an identity's or a kind's part of the range. Kinds are cut into hours, days or months too."""

    room: str | UnsetType = UNSET
    identity: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    hourly: list[UsageOfKind] | UnsetType = UNSET
    daily: list[UsageOfKind] | UnsetType = UNSET
    monthly: list[UsageOfKind] | UnsetType = UNSET


class UsageAnswer(Wire):
    """``as_of``: everything acknowledged before it is counted. Of ``hourly``, ``daily`` and ``monthly`` there is the one that
    ``granularity`` names; ``totals`` are its sums. ``rest``: what the groups beyond those shown amount to together."""

    period: Period | Literal["custom"]
    from_: Timestamp = msgspec.field(name="from")
    to: Timestamp
    granularity: Granularity
    as_of: Timestamp
    provisional_minutes: float
    inferred_minutes: float
    totals: UsageTotals
    hourly: list[UsageOfSpan] | UnsetType = UNSET
    daily: list[UsageOfSpan] | UnsetType = UNSET
    monthly: list[UsageOfSpan] | UnsetType = UNSET
    group_by: GroupBy | UnsetType = UNSET
    groups: list[UsageOfGroup] | UnsetType = UNSET
    group_count: int | UnsetType = UNSET
    rest: Metered | UnsetType = UNSET
    next_cursor: str | UnsetType | None = UNSET
