"""Parameters and answer of `GET /v1/usage`. How minutes are rounded: shared/metering/rounding.py."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.api.http.cursors import Cursor, NextCursor
from services.api.http.query import Instant, Query
from shared.metering.span import Granularity
from shared.models.names import Timestamp
from shared.models.wire import Wire

Period = Literal["today", "7d", "30d", "all"]
GroupBy = Literal["room", "identity", "kind"]
Order = Literal["name", "minutes"]
DEFAULT_LIMIT, MAX_LIMIT = 100, 500

RangeStart = Annotated[
    Instant, Meta(description="Start of the range: a UTC midnight, or with `granularity=hour` a full hour.")
]
RangeEnd = Annotated[Instant, Meta(description="End of the range, not included. Default: now.")]


class UsageQuery(Query):
    """The parameters as a client sends them."""

    period: (
        Annotated[Period, Meta(description="Days up to and including today. Default: `30d`. Not with `from`.")] | None
    ) = None
    from_: RangeStart | None = msgspec.field(default=None, name="from")
    to: RangeEnd | None = None
    granularity: Annotated[
        Granularity, Meta(description="Length of the parts: the answer has `hourly`, `daily` or `monthly`.")
    ] = "day"
    group_by: Annotated[GroupBy, Meta(description="Adds `groups`: usage by room, identity or kind.")] | None = None
    # These two have no default in the schema: a client that sends the default without `groupBy` would be refused.
    order: (
        Annotated[Order, Meta(description="Order of rooms or identities: `name`, or `minutes` with the most first.")]
        | None
    ) = None
    limit: (
        Annotated[int, Meta(ge=1, le=MAX_LIMIT, description=f"Rooms or identities per page. Default: {DEFAULT_LIMIT}.")]
        | None
    ) = None
    cursor: Cursor | None = None


ParticipantMinutes = Annotated[
    float, Meta(description="Connected time of all participants: `videoMinutes` + `audioMinutes`.")
]
VideoMinutes = Annotated[float, Meta(description="Connected time with at least one video track published.")]
AudioMinutes = Annotated[float, Meta(description="Connected time without a video track.")]
ScreenShareMinutes = Annotated[
    float, Meta(description="Connected time with a screen shared. Included in `videoMinutes`.")
]
InferredMinutes = Annotated[
    float, Meta(description="Part from ended sessions or runs whose end no event reported: Relay inferred it.")
]
ProvisionalMinutes = Annotated[float, Meta(description="Part from sessions or runs that are still open.")]
StartOfPart = Annotated[Timestamp, Meta(description="Start of the hour, day or month, UTC.")]


class Minutes(Wire):
    """Connected time. Each instant of it is either video or audio."""

    participant_minutes: ParticipantMinutes
    video_minutes: VideoMinutes
    audio_minutes: AudioMinutes


class Metered(Minutes):
    """Connected time, also split by how its end is known."""

    screen_share_minutes: ScreenShareMinutes
    observed_minutes: Annotated[float, Meta(description="Part from ended sessions whose end an event reported.")]
    inferred_minutes: InferredMinutes
    provisional_minutes: ProvisionalMinutes
    sessions: Annotated[int, Meta(description="Number of sessions that began.")]


class MediaMinutes(Wire):
    """Time that egresses or ingresses were active. A separate meter, not part of the participant minutes."""

    minutes: Annotated[float, Meta(description="Active time in minutes.")]
    inferred_minutes: InferredMinutes
    provisional_minutes: ProvisionalMinutes
    runs: Annotated[int, Meta(description="Number of runs that began.")]
    by_type: Annotated[dict[str, float], Meta(description="Minutes by type.")]


class UsageTotals(Metered):
    """All meters, added up."""

    egress: Annotated[MediaMinutes, Meta(description="Recordings and outgoing streams.")]
    ingress: Annotated[MediaMinutes, Meta(description="Incoming streams.")]


class ChangedMinutes(Minutes):
    """A difference in minutes. It may be negative."""


class LateChange(ChangedMinutes):
    """The last change of a day after the day was over."""

    at: Annotated[Timestamp, Meta(description="When the day last changed.")]
    total: Annotated[ChangedMinutes, Meta(description="Sum of all changes since the day was over.")]


class UsageOfSpan(UsageTotals):
    """The usage of one UTC hour, day or month."""

    date: StartOfPart
    peak_participants: Annotated[int, Meta(description="Most participants connected at one instant.")]
    rooms: Annotated[int, Meta(description="Number of different rooms. In days only.")] | UnsetType = UNSET
    identities: Annotated[int, Meta(description="Number of different identities. In days only.")] | UnsetType = UNSET
    late_change: (
        Annotated[LateChange, Meta(description="Present only in a day that changed after it was over.")] | UnsetType
    ) = UNSET


class UsageOfKind(Metered):
    """The usage of one kind of participant in one hour, day or month."""

    date: StartOfPart


class UsageOfGroup(Metered):
    """The usage of one room, identity or kind in the range. Only kinds are split into hours, days or months."""

    room: Annotated[str, Meta(description="Name of the room in this project.")] | UnsetType = UNSET
    identity: Annotated[str, Meta(description="Participant identity.")] | UnsetType = UNSET
    kind: (
        Annotated[str, Meta(description="Kind of participant, such as `standard`, `agent`, `sip` or `egress`.")]
        | UnsetType
    ) = UNSET
    hourly: Annotated[list[UsageOfKind], Meta(description="Usage by hour, oldest first.")] | UnsetType = UNSET
    daily: Annotated[list[UsageOfKind], Meta(description="Usage by day, oldest first.")] | UnsetType = UNSET
    monthly: Annotated[list[UsageOfKind], Meta(description="Usage by month, oldest first.")] | UnsetType = UNSET


Hourly = Annotated[list[UsageOfSpan], Meta(description="Usage by hour, oldest first, without gaps.")]
Daily = Annotated[list[UsageOfSpan], Meta(description="Usage by day, oldest first, without gaps.")]
Monthly = Annotated[
    list[UsageOfSpan],
    Meta(description="Usage by month, oldest first, without gaps. The first and last month may be partial."),
]
Rest = Annotated[Metered, Meta(description="Sum of the groups that are not listed. Only with `order=minutes`.")]


class UsageAnswer(Wire):
    """The usage of a range. Only the list that ``granularity`` names is present."""

    period: Annotated[
        Period | Literal["custom"], Meta(description="The requested period. `custom` for a request with `from`.")
    ]
    from_: Annotated[Timestamp, Meta(description="Start of the range.")] = msgspec.field(name="from")
    to: Annotated[Timestamp, Meta(description="End of the range, not included.")]
    granularity: Annotated[
        Granularity, Meta(description="Length of the parts: says which of `hourly`, `daily` and `monthly` is present.")
    ]
    as_of: Annotated[Timestamp, Meta(description="Every event acknowledged before this time is counted.")]
    provisional_minutes: ProvisionalMinutes
    inferred_minutes: InferredMinutes
    totals: Annotated[UsageTotals, Meta(description="The exact sums of `hourly`, `daily` or `monthly`.")]
    hourly: Hourly | UnsetType = UNSET
    daily: Daily | UnsetType = UNSET
    monthly: Monthly | UnsetType = UNSET
    group_by: Annotated[GroupBy, Meta(description="The requested grouping.")] | UnsetType = UNSET
    groups: Annotated[list[UsageOfGroup], Meta(description="Usage by room, identity or kind.")] | UnsetType = UNSET
    group_count: Annotated[int, Meta(description="Number of all groups. Only with `order=minutes`.")] | UnsetType = (
        UNSET
    )
    rest: Rest | UnsetType = UNSET
    next_cursor: NextCursor | UnsetType | None = UNSET
