"""The obvious meter: store the join, subtract at the leave. Tests show what it gets wrong.

It keys sessions by room name and identity and takes events in their order of arrival. A video lasts from its publish to its
unpublish. The whole session belongs to the day of its end. A peak counts joins and leaves since midnight.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

DAY = 86_400_000


class NaiveMeter:
    """It bills ``participant_ms``, ``video_ms`` and ``by_day``. ``open`` holds sessions without an end."""

    def __init__(self, events: Iterable[dict[str, Any]] = ()) -> None:
        self.participant_ms = self.video_ms = 0
        self.by_day: defaultdict[int, int] = defaultdict(int)
        self.peaks: defaultdict[int, int] = defaultdict(int)
        self.open: dict[tuple[str, str], int] = {}
        self._videos: dict[str, int] = {}
        self._levels: defaultdict[int, int] = defaultdict(int)
        for event in events:
            self.take(event)

    def take(self, event: dict[str, Any], arrived_ms: int | None = None) -> None:
        """Meter an event. With ``arrived_ms``, use the clock of the receiver."""
        name, who, at_ms = event["event"], event.get("participant", {}), int(event["createdAt"]) * 1000
        if arrived_ms is not None:
            at_ms = arrived_ms
        key = (event.get("room", {}).get("name", ""), who.get("identity", ""))
        day = at_ms - at_ms % DAY
        if name == "participant_joined":
            self.open[key] = at_ms if arrived_ms is not None else int(who.get("joinedAtMs", at_ms))
            self._levels[day] += 1
            self.peaks[day] = max(self.peaks[day], self._levels[day])
        elif name == "participant_left":
            self._close(key, at_ms)
            self._levels[day] -= 1
        elif name == "room_finished":
            for known in [known for known in self.open if known[0] == key[0]]:
                self._close(known, at_ms)
        elif name == "track_published":
            self._videos[event["track"]["sid"]] = at_ms
        elif name == "track_unpublished" and event["track"]["sid"] in self._videos:
            self.video_ms += at_ms - self._videos.pop(event["track"]["sid"])

    def _close(self, key: tuple[str, str], at_ms: int) -> None:
        if key in self.open:
            length = at_ms - self.open.pop(key)
            self.participant_ms += length
            self.by_day[at_ms - at_ms % DAY] += length

    def until(self, now_ms: int) -> int:
        """Return the participant time with open sessions counted until ``now_ms``."""
        return self.participant_ms + sum(now_ms - start_ms for start_ms in self.open.values())
