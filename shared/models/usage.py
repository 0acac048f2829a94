"""The answer of `GET /v1/usage`.

Minutes are shown with six decimals (0.06 ms) and are whole numbers of millionths until then: video and audio are rounded
once, from milliseconds, and everything else is a sum of those two, so parts always add up to their totals.
"""

from typing import Literal

from shared.clock import rfc3339
from shared.models.wire import Wire

Period = Literal["today", "7d", "30d", "all"]
_MILLIONTHS = 1_000_000


class Minutes(Wire):
    participant_minutes: float
    video_minutes: float
    audio_minutes: float


class DayOfUsage(Wire):
    """One UTC day; ``date`` is its midnight."""

    date: str
    participant_minutes: float
    video_minutes: float
    audio_minutes: float
    peak_participants: int


class UsageAnswer(Wire):
    """``as_of``: everything received before it is counted. ``provisional_minutes``: the part that sessions still open have
    in the totals."""

    period: Period
    totals: Minutes
    daily: list[DayOfUsage]
    as_of: str
    provisional_minutes: float


def millionths(ms: int) -> int:
    """Milliseconds as millionths of a minute, rounded half up."""
    return (ms * _MILLIONTHS * 2 + 60_000) // 120_000


def build_answer(
    period: Period, days: list[tuple[int, int, int, int]], as_of_ms: int, provisional_ms: int
) -> UsageAnswer:
    """From (midnight unix ms, participant ms, video ms, peak) of each day."""
    daily: list[DayOfUsage] = []
    total_video = total_audio = 0
    for date_ms, participant_ms, video_ms, peak in days:
        video, audio = millionths(video_ms), millionths(participant_ms - video_ms)
        total_video += video
        total_audio += audio
        daily.append(
            DayOfUsage(
                date=rfc3339(date_ms),
                participant_minutes=(video + audio) / _MILLIONTHS,
                video_minutes=video / _MILLIONTHS,
                audio_minutes=audio / _MILLIONTHS,
                peak_participants=peak,
            )
        )
    totals = Minutes(
        participant_minutes=(total_video + total_audio) / _MILLIONTHS,
        video_minutes=total_video / _MILLIONTHS,
        audio_minutes=total_audio / _MILLIONTHS,
    )
    return UsageAnswer(
        period=period,
        totals=totals,
        daily=daily,
        as_of=rfc3339(as_of_ms),
        provisional_minutes=millionths(provisional_ms) / _MILLIONTHS,
    )
