"""Build the answer of `GET /v1/usage` from milliseconds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import UNSET, UnsetType

from services.api.usage.schemas import (
    ChangedMinutes,
    GroupBy,
    LateChange,
    MediaMinutes,
    Metered,
    UsageOfGroup,
    UsageOfKind,
    UsageOfSpan,
    UsageTotals,
)
from shared.infra.clock import rfc3339
from shared.metering.rounding import MILLIONTHS, Amounts, Rounding, RunningSum, Shown, millionths
from shared.metering.span import Span
from shared.models.usage.ranges import GroupAmounts, LateChanges, MediaUsage

SERIES = {"hour": "hourly", "day": "daily", "month": "monthly"}
_NO_KINDS: Mapping[str, Amounts] = {}


class Measured(NamedTuple):
    """Amounts read for a span, by the start of each hour, day or month.

    ``names``: (rooms, identities) of days.
    """

    usage: Mapping[int, Mapping[str, Amounts]]
    media: Mapping[int, Mapping[tuple[str, str], MediaUsage]]
    peaks: Mapping[int, int]
    names: Mapping[int, tuple[int, int]] | None = None
    changes: Mapping[int, LateChanges] = {}


class Series(NamedTuple):
    """The parts of a span and their sum. ``of_kinds`` has (date, part) of each kind of participant."""

    spans: list[UsageOfSpan]
    totals: UsageTotals
    total: Shown
    of_kinds: Mapping[str, Sequence[tuple[str, Shown]]]


def minutes(shown: int) -> float:
    return shown / MILLIONTHS


def metered(shown: Shown) -> dict[str, Any]:
    """Return the fields of a ``Metered`` by name."""
    return {
        "participant_minutes": minutes(shown.participant),
        "video_minutes": minutes(shown.video),
        "audio_minutes": minutes(shown.audio),
        "screen_share_minutes": minutes(shown.screen_share),
        "observed_minutes": minutes(shown.observed),
        "inferred_minutes": minutes(shown.inferred),
        "provisional_minutes": minutes(shown.provisional),
        "sessions": shown.sessions,
    }


def series(span: Span, measured: Measured) -> Series:
    """Build each hour, day or month of the span, without gaps."""
    rounding, media = Rounding(), _Media()
    spans: list[UsageOfSpan] = []
    shown_of_spans: list[Shown] = []
    of_kinds: defaultdict[str, list[tuple[str, Shown]]] = defaultdict(list)
    for start_ms in span.starts():
        date, cells = _date(start_ms), []
        kinds = measured.usage.get(start_ms, _NO_KINDS)
        for kind in sorted(kinds):
            cell = rounding.show(kinds[kind])
            of_kinds[kind].append((date, cell))
            cells.append(cell)
        shown = Shown.of(cells)
        shown_of_spans.append(shown)
        change = measured.changes.get(start_ms)
        rooms, identities = _names(measured, start_ms)
        egress, ingress = media.show(measured.media.get(start_ms))
        spans.append(
            UsageOfSpan(
                **metered(shown),
                egress=egress,
                ingress=ingress,
                date=date,
                peak_participants=measured.peaks.get(start_ms, 0),
                rooms=rooms,
                identities=identities,
                late_change=_late_change(change) if change is not None else UNSET,
            )
        )
    total = Shown.of(shown_of_spans)
    egress, ingress = media.totals()
    return Series(spans, UsageTotals(**metered(total), egress=egress, ingress=ingress), total, of_kinds)


@lru_cache(maxsize=4096)
def _date(start_ms: int) -> str:
    """Return the start of a part as text. Cached, because most requests ask for the same days."""
    return rfc3339(start_ms)


def _names(measured: Measured, start_ms: int) -> tuple[int | UnsetType, int | UnsetType]:
    return measured.names.get(start_ms, (0, 0)) if measured.names is not None else (UNSET, UNSET)


def kinds(span: Span, found: Series) -> list[UsageOfGroup]:
    """Build the kinds of participants by name, each with its hours, days or months."""
    return [_kind(span, kind, cells) for kind, cells in sorted(found.of_kinds.items())]


def _kind(span: Span, kind: str, cells: Sequence[tuple[str, Shown]]) -> UsageOfGroup:
    total = Shown()
    for _, cell in cells:
        total = total.plus(cell)
    parts = [UsageOfKind(**metered(cell), date=date) for date, cell in cells]
    group = UsageOfGroup(**metered(total), kind=kind)
    setattr(group, SERIES[span.granularity], parts)
    return group


def groups(by: GroupBy, rows: Iterable[GroupAmounts], rounding: Rounding) -> tuple[list[UsageOfGroup], Shown]:
    """Build rooms or identities in the given order, and their sum.

    ``rounding`` continues from earlier pages.
    """
    found: list[UsageOfGroup] = []
    total = Shown()
    for row in rows:
        shown = rounding.show(Amounts(*row[1:]))
        total = total.plus(shown)
        group = UsageOfGroup(**metered(shown))
        setattr(group, by, row.name)
        found.append(group)
    return found, total


def rest(total: Shown, shown: Shown) -> Metered:
    """Return the difference of ``total`` and the listed groups."""
    return Metered(**metered(total.less(shown)))


def _changed(participant_ms: int, video_ms: int) -> ChangedMinutes:
    video, audio = millionths(video_ms), millionths(participant_ms - video_ms)
    return ChangedMinutes(
        participant_minutes=minutes(video + audio), video_minutes=minutes(video), audio_minutes=minutes(audio)
    )


def _late_change(change: LateChanges) -> LateChange:
    last = _changed(change.participant_ms, change.video_ms)
    return LateChange(
        participant_minutes=last.participant_minutes,
        video_minutes=last.video_minutes,
        audio_minutes=last.audio_minutes,
        at=rfc3339(change.changed_ms),
        total=_changed(change.total_participant_ms, change.total_video_ms),
    )


class _Media:
    """Rounds egress and ingress, one hour, day or month after the other."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[str, str, int], RunningSum] = defaultdict(RunningSum)
        self._totals: dict[tuple[str, str], list[int]] = {}

    def show(self, usage: Mapping[tuple[str, str], MediaUsage] | None) -> tuple[MediaMinutes, MediaMinutes]:
        """Return egress and ingress of the next hour, day or month."""
        if not usage:
            return _NO_MINUTES, _NO_MINUTES
        shown: dict[tuple[str, str], list[int]] = {}
        for key, amounts in sorted(usage.items()):
            parts = [self._sums[(*key, index)].show(amounts[index]) for index in range(3)]
            shown[key] = [*parts, amounts.runs]
            known = self._totals.get(key, [0] * 4)
            self._totals[key] = [a + b for a, b in zip(known, shown[key], strict=True)]
        return _meter("egress", shown), _meter("ingress", shown)

    def totals(self) -> tuple[MediaMinutes, MediaMinutes]:
        return _meter("egress", self._totals), _meter("ingress", self._totals)


def _meter(meter: str, shown: Mapping[tuple[str, str], Sequence[int]]) -> MediaMinutes:
    of_meter = {kind: amounts for (of, kind), amounts in shown.items() if of == meter}
    sums = [sum(column) for column in zip(*of_meter.values(), strict=True)] or [0] * 4
    return MediaMinutes(
        minutes=minutes(sums[0]),
        inferred_minutes=minutes(sums[1]),
        provisional_minutes=minutes(sums[2]),
        runs=sums[3],
        by_type={kind: minutes(amounts[0]) for kind, amounts in of_meter.items()},
    )


# Shared by all answers. Nothing changes it.
_NO_MINUTES = _meter("", {})
