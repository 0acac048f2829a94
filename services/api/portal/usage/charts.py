"""Compute the geometry of a bar chart.

Widths are in per cent, so that it fits a phone and its text stays readable; heights are in pixels. The template
(templates/charts.html) draws it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

PLOT_HEIGHT = 176
_GAP = 0.28
_MOST_LABELS, _MOST_TIPS = 8, 48


class Column(NamedTuple):
    """One bar of the chart.

    ``title`` is the first line of its tooltip, and ``lines`` are the others: (name, text, class of the dot). ``parts`` are
    stacked from the bottom, one for each of the chart's ``series``. ``label`` is shown below the bar if there is room.
    """

    label: str
    title: str
    parts: tuple[float, ...]
    lines: tuple[tuple[str, str, str], ...]


class Bar(NamedTuple):
    """A rectangle: ``x`` and ``width`` in per cent, ``y`` and ``height`` in pixels from the top."""

    x: float
    y: float
    width: float
    height: float
    series: str


class Spot(NamedTuple):
    """The area that shows a column's tooltip. In the right half the tooltip opens to the left."""

    x: float
    width: float
    middle: float
    opens_left: bool
    column: Column


class Chart(NamedTuple):
    """The chart for the template. ``labels``: (x, text, whether a phone hides it). ``ticks``: (y, text)."""

    height: int
    bars: list[Bar]
    spots: list[Spot]
    ticks: list[tuple[float, str]]
    labels: list[tuple[float, str, bool]]
    tip_height: int
    # False for many columns: they use the browser's own tooltip and the table below the chart.
    has_tips: bool


def nice_step(greatest: float) -> float:
    """Return the step of the axis, a whole number, with at most five steps to ``greatest``.

    The step is 1, 2, 2.5, 5 or 10 times a power of ten.
    """
    if greatest <= 4:
        return 1
    power: float = 10 ** math.floor(math.log10(greatest / 5))
    steps = (step * power for step in (1, 2, 2.5, 5, 10))
    return next(step for step in steps if step * 5 >= greatest and step == int(step))


def bar_chart(columns: Sequence[Column], series: Sequence[str], height: int = PLOT_HEIGHT) -> Chart:
    """Lay out a stacked bar chart. ``series`` names the class of each part."""
    step = 100 / max(len(columns), 1)
    greatest = max((sum(column.parts) for column in columns), default=0)
    between = nice_step(greatest)
    lines_up = max(1, math.ceil(greatest / between))
    top = lines_up * between
    bars, spots = [], []
    for index, column in enumerate(columns):
        base = float(height)
        for part, name in zip(column.parts, series, strict=True):
            size = part / top * height
            # Even the smallest part is visible.
            size = max(size, 1.5) if part > 0 else 0
            if size:
                base = max(base - size, 0)
                bars.append(Bar(_r(index * step + step * _GAP / 2), _r(base), _r(step * (1 - _GAP)), _r(size), name))
        middle = (index + 0.5) * step
        spots.append(Spot(_r(index * step), _r(step), _r(middle), middle > 50, column))
    ticks = [(_r(height - height * line / lines_up), _tick(between * line)) for line in range(1, lines_up + 1)]
    labelled = [index for index, column in enumerate(columns) if column.label]
    every = max(1, math.ceil(len(labelled) / _MOST_LABELS))
    # Every other label is hidden on a phone.
    shown = labelled[::-1][::every][::-1]
    labels = [
        (_r((index + 0.5) * step), columns[index].label, order % 2 == 1) for order, index in enumerate(reversed(shown))
    ]
    lines = max((len(column.lines) for column in columns), default=0)
    return Chart(height, bars, spots, ticks, labels, 34 + 18 * lines, len(columns) <= _MOST_TIPS)


def _r(value: float) -> float:
    return round(value, 3)


def _tick(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:,g}"
