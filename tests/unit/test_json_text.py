"""Indented JSON for people: equal to msgspec's output, but with bounded time, memory and length."""

import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.infra.json_text import MAX_INDENTED_DEPTH, indented

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_indented_json_equals_the_output_of_msgspec(value: Any) -> None:
    body = msgspec.json.encode(value)
    assert indented(body, 10**6) == (msgspec.json.format(body, indent=2).decode(), False)


@given(VALUES, st.integers(0, 200))
def test_indented_json_is_cut_at_the_limit_and_marked_as_cut(value: Any, longest: int) -> None:
    body = msgspec.json.encode(value)
    text, is_cut = indented(body, longest)
    whole, _ = indented(body, 10**6)
    assert len(text) <= longest
    assert whole.startswith(text) or is_cut
    assert is_cut == (text != whole)


@given(st.binary(max_size=300), st.integers(1, 100))
def test_arbitrary_bytes_are_shown_within_the_limit(body: bytes, longest: int) -> None:
    text, _ = indented(body, longest)
    assert len(text) <= longest


@pytest.mark.parametrize("depth", [1, MAX_INDENTED_DEPTH, 500, 20_000, 500_000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("is_closed", [True, False])
def test_deep_nesting_is_indented_in_bounded_time_and_memory(
    depth: int, pair: tuple[bytes, bytes], is_closed: bool
) -> None:
    body = pair[0] * depth + (b"1" + pair[1] * depth if is_closed else b"")
    tracemalloc.start()
    began = time.process_time()
    text, _ = indented(body, 60_000)
    took = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(text) <= 60_000
    assert took < 2
    assert peak < 8 * 2**20
