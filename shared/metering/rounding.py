"""Round milliseconds to minutes with six decimals, so that parts always add up to their total.

Minutes are shown in whole millionths (0.06 ms each). A part is the difference of two rounded running sums. So a total is
rounded once, its parts add up to it exactly, and the error of each part is less than one millionth. A part times 60,000,
rounded, gives back its milliseconds.
"""

from collections.abc import Sequence
from operator import add, sub
from typing import NamedTuple

MILLIONTHS = 1_000_000


def millionths(ms: int) -> int:
    """Convert milliseconds to millionths of a minute, rounded half up."""
    return (ms * 100 + 3) // 6


class RunningSum:
    """Rounds the parts of a sum one after another. ``before_ms``: the sum of the parts rounded elsewhere."""

    def __init__(self, before_ms: int = 0) -> None:
        self.ms = before_ms
        self._shown = millionths(before_ms)

    def show(self, ms: int) -> int:
        """Return the next part in millionths of a minute."""
        self.ms += ms
        before, self._shown = self._shown, millionths(self.ms)
        return self._shown - before


def shares(units: int, parts_ms: Sequence[int]) -> list[int]:
    """Divide ``units`` in proportion to ``parts_ms``. A part of 0 ms gets 0. The sum is ``units``."""
    total_ms = sum(parts_ms)
    if total_ms <= parts_ms[0]:
        return [units, *(0 for _ in parts_ms[1:])]
    shown, reached_ms, cut = [], 0, 0
    for part_ms in parts_ms:
        reached_ms += part_ms
        before, cut = cut, (reached_ms * units * 2 + total_ms) // (total_ms * 2)
        shown.append(cut - before)
    return shown


class Amounts(NamedTuple):
    """Milliseconds of connected time and of its parts. ``sessions`` counts the sessions that began."""

    participant_ms: int = 0
    video_ms: int = 0
    screen_share_ms: int = 0
    inferred_ms: int = 0
    provisional_ms: int = 0
    sessions: int = 0

    def plus(self, other: "Amounts") -> "Amounts":
        return Amounts._make(map(add, self, other))


class Shown(NamedTuple):
    """``Amounts`` in millionths of a minute.

    participant = video + audio = observed + inferred + provisional.
    """

    participant: int = 0
    video: int = 0
    audio: int = 0
    screen_share: int = 0
    observed: int = 0
    inferred: int = 0
    provisional: int = 0
    sessions: int = 0

    def plus(self, other: "Shown") -> "Shown":
        return Shown._make(map(add, self, other))

    @staticmethod
    def of(parts: "Sequence[Shown]") -> "Shown":
        """Return the sum of ``parts``."""
        return Shown._make(map(sum, zip(*parts, strict=True))) if parts else Shown()

    def less(self, other: "Shown") -> "Shown":
        return Shown._make(map(sub, self, other))


class Rounding:
    """Rounds amounts one after another.

    Only video and audio are rounded. Everything else is a sum or a share of these two.
    """

    def __init__(self, video_before_ms: int = 0, audio_before_ms: int = 0) -> None:
        self.video, self.audio = RunningSum(video_before_ms), RunningSum(audio_before_ms)

    def show(self, of: Amounts) -> Shown:
        participant_ms, video_ms, screen_share_ms, inferred_ms, provisional_ms, sessions = of
        video, audio = self.video.show(video_ms), self.audio.show(participant_ms - video_ms)
        whole = video + audio
        # Most cells have none of these. Checking first saves time, because a long range by hour has thousands of cells.
        screen_share, observed, inferred, provisional = 0, whole, 0, 0
        if screen_share_ms and video_ms > 0:
            screen_share, _ = shares(video, (screen_share_ms, video_ms - screen_share_ms))
        if inferred_ms or provisional_ms:
            observed_ms = participant_ms - inferred_ms - provisional_ms
            observed, inferred, provisional = shares(whole, (observed_ms, inferred_ms, provisional_ms))
        return Shown(whole, video, audio, screen_share, observed, inferred, provisional, sessions)
