"""Parts add up to their totals in every object of a usage response, for any cut and grouping."""

from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.api.usage import answer as usage_answer
from services.api.usage.answer import SERIES, Measured
from shared.infra.clock import DAY_MS, HOUR_MS
from shared.metering.rounding import Amounts, Rounding, RunningSum, millionths, shares
from shared.metering.span import Granularity, Span
from shared.models.usage.ranges import GroupAmounts, LateChanges, MediaUsage
from tests.examples import examples

laws = settings(max_examples=examples(200))
MIDNIGHT = 20_600 * DAY_MS
DAYS = 36  # from the end of one month to the start of the month after the next
PARTS = ("videoMinutes", "audioMinutes")
COMPLETENESS = ("observedMinutes", "inferredMinutes", "provisionalMinutes")


@st.composite
def amounts(draw: st.DrawFn) -> Amounts:
    participant = draw(st.sampled_from([0, 1, 2, 7, 30_000, 59_999]) | st.integers(0, 10**10))
    video = draw(st.integers(0, participant))
    inferred = draw(st.integers(0, participant))
    return Amounts(
        participant,
        video,
        draw(st.integers(0, video)),
        inferred,
        draw(st.integers(0, participant - inferred)),
        draw(st.integers(0, 9)),
    )


hours = st.dictionaries(
    st.integers(0, DAYS * 24 - 1).map(lambda hour: MIDNIGHT + hour * HOUR_MS),
    st.dictionaries(st.sampled_from(["STANDARD", "AGENT", "SIP"]), amounts(), min_size=1),
    max_size=20,
)


def units(value: float) -> int:
    """Convert to millionths. The value must be a whole number of them."""
    shown = round(value * 1_000_000)
    assert abs(value * 1_000_000 - shown) < 1e-3
    return shown


def answer(by_hour: dict[int, dict[str, Amounts]], granularity: Granularity) -> dict[str, Any]:
    span = Span(MIDNIGHT, MIDNIGHT + DAYS * DAY_MS, granularity)
    usage: defaultdict[int, defaultdict[str, Amounts]] = defaultdict(lambda: defaultdict(Amounts))
    for hour, kinds in by_hour.items():
        for kind, of_kind in kinds.items():
            piece = usage[span.piece_of(hour)]
            piece[kind] = piece[kind].plus(of_kind)
    found = usage_answer.series(span, Measured(usage, {}, {}))
    return {
        "spans": msgspec.to_builtins(found.spans),
        "totals": msgspec.to_builtins(found.totals),
        "kinds": msgspec.to_builtins(usage_answer.kinds(span, found)),
    }


def check_object(found: dict[str, Any]) -> None:
    whole = units(found["participantMinutes"])
    assert whole == sum(units(found[part]) for part in PARTS)
    assert whole == sum(units(found[part]) for part in COMPLETENESS)
    assert all(units(found[part]) >= 0 for part in (*PARTS, *COMPLETENESS))
    assert 0 <= units(found["screenShareMinutes"]) <= units(found["videoMinutes"])


@laws
@given(hours, st.sampled_from(["hour", "day", "month"]))
def test_parts_add_up_in_every_object_and_in_the_totals(
    by_hour: dict[int, dict[str, Amounts]], granularity: Granularity
) -> None:
    found = answer(by_hour, granularity)
    everything = [found["totals"], *found["spans"], *found["kinds"]]
    everything += [part for kind in found["kinds"] for part in kind[SERIES[granularity]]]
    for one in everything:
        check_object(one)
    fields = ("participantMinutes", "screenShareMinutes", *PARTS, *COMPLETENESS)
    cut: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind in found["kinds"]:
        for part in kind[SERIES[granularity]]:
            cut[part["date"]].append(part)
    for field in fields:
        assert units(found["totals"][field]) == sum(units(span[field]) for span in found["spans"])
        assert units(found["totals"][field]) == sum(units(kind[field]) for kind in found["kinds"])
        for span in found["spans"]:
            assert units(span[field]) == sum(units(part[field]) for part in cut[span["date"]])
    for span in found["spans"]:
        assert span["sessions"] == sum(part["sessions"] for part in cut[span["date"]])


@laws
@given(hours)
def test_totals_are_exact_and_equal_for_every_granularity(
    by_hour: dict[int, dict[str, Amounts]],
) -> None:
    cells = [cell for kinds in by_hour.values() for cell in kinds.values()]
    for granularity in ("hour", "day", "month"):
        found = answer(by_hour, granularity)
        video = sum(cell.video_ms for cell in cells)
        audio = sum(cell.participant_ms for cell in cells) - video
        totals = found["totals"]
        assert units(totals["videoMinutes"]) == millionths(video)
        assert units(totals["audioMinutes"]) == millionths(audio)
        for one in found["spans"]:
            assert one["participantMinutes"] * 60_000 == pytest.approx(
                round(one["participantMinutes"] * 60_000), abs=0.3
            )


@laws
@given(st.lists(amounts(), max_size=12), st.integers(1, 5))
def test_pages_of_groups_add_up_to_the_total(rows: list[Amounts], size: int) -> None:
    """Each page continues the rounding of the page before it."""
    named = [GroupAmounts(f"room-{index}", *row) for index, row in enumerate(rows)]
    video_ms = audio_ms = 0
    shown = [0, 0]
    for at in range(0, len(named), size):
        rounding = Rounding(video_ms, audio_ms)
        found, _ = usage_answer.groups("room", named[at : at + size], rounding)
        video_ms, audio_ms = rounding.video.ms, rounding.audio.ms
        for group, row in zip(found, named[at : at + size], strict=True):
            check_object(msgspec.to_builtins(group))
            assert round(group.participant_minutes * 60_000) == row.participant_ms
            shown[0] += units(group.video_minutes)
            shown[1] += units(group.audio_minutes)
    assert shown == [millionths(video_ms), millionths(audio_ms)]


@laws
@given(st.lists(st.integers(0, 10**9), max_size=30), st.integers(0, 10**6))
def test_running_sum_rounds_its_total_once(parts: list[int], before_ms: int) -> None:
    running = RunningSum(before_ms)
    shown = [running.show(part) for part in parts]
    assert sum(shown) == millionths(before_ms + sum(parts)) - millionths(before_ms)
    assert all(abs(one - part * 1_000_000 / 60_000) < 1 for one, part in zip(shown, parts, strict=True))


@laws
@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_shares_add_up_to_the_whole_and_empty_parts_get_zero(whole: int, parts: list[int]) -> None:
    found = shares(whole, parts)
    assert sum(found) == whole
    assert all(one >= 0 for one in found)
    assert sum(parts) == 0 or all(one == 0 for one, part in zip(found, parts, strict=True) if part == 0)


def test_egress_and_ingress_are_separate_meters_by_type() -> None:
    span = Span(MIDNIGHT, MIDNIGHT + 2 * DAY_MS, "day")
    media = {
        MIDNIGHT: {("egress", "web"): MediaUsage(90_000, 30_000, 0, 1), ("egress", "track"): MediaUsage(1, 0, 0, 1)},
        MIDNIGHT + DAY_MS: {
            ("egress", "web"): MediaUsage(1, 0, 1, 0),
            ("ingress", "rtmp"): MediaUsage(60_000, 0, 0, 2),
        },
    }
    found = usage_answer.series(span, Measured({}, media, {}))
    assert found.totals.participant_minutes == 0
    assert found.spans[0].egress.by_type == {"track": 0.000017, "web": 1.5}
    assert (found.spans[0].egress.inferred_minutes, found.spans[0].egress.runs) == (0.5, 2)
    assert found.totals.egress.minutes == pytest.approx(sum(span.egress.minutes for span in found.spans), abs=1e-9)
    assert (found.totals.ingress.minutes, found.totals.ingress.runs) == (1.0, 2)
    assert found.totals.ingress.by_type == {"rtmp": 1.0}


def test_late_change_contains_its_time_and_amounts() -> None:
    span = Span(MIDNIGHT, MIDNIGHT + 2 * DAY_MS, "day")
    changes = {MIDNIGHT: LateChanges(MIDNIGHT + 3 * DAY_MS, -60_000, -30_000, 120_000, 0)}
    first, second = msgspec.to_builtins(usage_answer.series(span, Measured({}, {}, {}, {}, changes)).spans)
    assert first["lateChange"] == {
        "at": "2026-05-30T00:00:00.000Z",
        "participantMinutes": -1.0,
        "videoMinutes": -0.5,
        "audioMinutes": -0.5,
        "total": {"participantMinutes": 2.0, "videoMinutes": 0.0, "audioMinutes": 2.0},
    }
    assert "lateChange" not in second
