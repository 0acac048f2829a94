"""The usage of a project over a range of time, as read from Postgres.

Times are unix ms, amounts are milliseconds.
"""

from typing import NamedTuple

from shared.metering.peak import Stretch
from shared.metering.rounding import Amounts


class UsageClock(NamedTuple):
    """The time of a usage request, and how long an open session counts without a sign (None: no limit)."""

    now_ms: int
    stale_ms: int | None


class MediaUsage(NamedTuple):
    """Milliseconds of egress or ingress. ``runs`` counts the runs that began."""

    active_ms: int
    inferred_ms: int
    provisional_ms: int
    runs: int


class LateChanges(NamedTuple):
    """The last change of a day after it was over (time and amounts), and the total of all such changes."""

    changed_ms: int
    participant_ms: int
    video_ms: int
    total_participant_ms: int
    total_video_ms: int


class RangeUsage(NamedTuple):
    """The stored usage of a range, on one snapshot, by the start (unix ms) of its hours or days.

    ``usage``: by kind; ended sessions, and open ones as far as they count. ``media``: egress and ingress likewise, by
    (meter, type). ``carried_in``: participants connected just before the range. ``stretches``: changes of the number of
    participants, for the hours or days that have any. ``names``: (rooms, identities) of each day, open sessions included.
    ``changes``: days that changed after they were over. ``names`` and ``changes`` are empty unless asked for.
    ``oldest_in_inbox_ms``: receipt of the oldest event that waits in the Postgres inbox. ``complete_ms``: at the last sweep,
    everything acknowledged before this time was folded; None before the first sweep.
    """

    usage: dict[int, dict[str, Amounts]]
    media: dict[int, dict[tuple[str, str], MediaUsage]]
    carried_in: int
    stretches: dict[int, Stretch]
    names: dict[int, tuple[int, int]]
    changes: dict[int, LateChanges]
    oldest_in_inbox_ms: int | None
    complete_ms: int | None


class GroupAmounts(NamedTuple):
    """One room or identity over a range, open sessions included.

    ``sessions`` counts those that began in the range.
    """

    name: str
    participant_ms: int
    video_ms: int
    screen_share_ms: int
    inferred_ms: int
    provisional_ms: int
    sessions: int


class TopGroups(NamedTuple):
    """The groups with the most connected time, greatest first. ``names``: the number of all groups."""

    groups: list[GroupAmounts]
    names: int
