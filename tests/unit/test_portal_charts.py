"""The geometry of the portal's charts."""

from hypothesis import given
from hypothesis import strategies as st

from services.api.portal.usage.charts import Column, bar_chart, nice_step

amounts = st.floats(0, 1e9, allow_nan=False)


@given(amounts)
def test_axis_has_at_most_five_steps_of_whole_numbers(greatest: float) -> None:
    step = nice_step(greatest)
    assert step == int(step) >= 1
    assert step * 5 >= greatest
    assert step == 1 or step * 1.9 <= greatest


@given(st.lists(st.tuples(amounts, amounts), max_size=60))
def test_bars_stay_inside_the_chart_and_omit_zeros(values: list[tuple[float, float]]) -> None:
    columns = [Column("", "", value, ()) for value in values]
    chart = bar_chart(columns, ("video", "audio"), 100)
    for bar in chart.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= 100.01
        assert bar.y >= -0.01
        assert bar.y + bar.height <= 101.51
        assert bar.height >= 1.5
    assert len(chart.bars) == sum(part > 0 for value in values for part in value)
    assert len(chart.spots) == len(values)


def test_chart_without_data_is_empty() -> None:
    chart = bar_chart([], ("video", "audio"))
    assert (chart.bars, chart.spots, chart.labels) == ([], [], [])
