"""Limits for the times and texts of events. Times are unix milliseconds."""

from shared.infra.clock import DAY_MS

# LiveKit's clock may be this far ahead of Relay's. Later times are implausible.
FUTURE_TOLERANCE_MS = 3_600_000
# 2020-01-01, before LiveKit existed. An earlier time comes from a clock that was never set.
EARLIEST_MS = 1_577_836_800_000
# An event older than this on arrival comes from a wrong clock: LiveKit retries for seconds only.
MAX_AGE_DAYS = 366
MAX_AGE_MS = MAX_AGE_DAYS * DAY_MS
# Display names and disconnect reasons are cut to this many characters. LiveKit's default limit of a name is 256.
MAX_TEXT = 512
# A track sid of LiveKit has 15 characters.
MAX_TRACK_SID = 128
# An end may precede its start by this much: createdAt is floored to the second and set by another goroutine than joinedAtMs.
END_BEFORE_START_TOLERANCE_MS = 5_000
