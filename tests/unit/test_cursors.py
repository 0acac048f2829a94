"""A cursor gives its position to the same request. Any other text or request is refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.cursors import read_cursor, write_cursor
from shared.errors import InvalidRequest

# Postgres stores no NUL character, so no row has one.
_STORABLE = st.characters(codec="utf-8", exclude_characters="\0")
positions = st.tuples(st.integers(-(2**53), 2**53), st.text(_STORABLE, max_size=200))


@given(positions, st.lists(st.text(max_size=9) | st.none() | st.integers(0, 9), max_size=4))
def test_cursor_round_trips_its_position(position: tuple[int, str], request: list[str | int | None]) -> None:
    assert read_cursor(write_cursor(request, position), request, (int, str)) == position


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_arbitrary_text_is_refused_as_a_cursor(cursor: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_cursor(cursor, ["sessions"], (int, str))
    assert (refused.value.code, refused.value.param) == ("invalid_cursor", "cursor")


def test_cursor_of_another_request_is_refused() -> None:
    cursor = write_cursor(["sessions", "lobby"], (1, "PA"))
    with pytest.raises(InvalidRequest):
        read_cursor(cursor, ["sessions", "stage"], (int, str))
    with pytest.raises(InvalidRequest):
        read_cursor(cursor, ["sessions", "lobby"], (str, int))
    assert read_cursor(None, ["sessions"], (int, str)) is None


def test_cursor_with_a_nul_character_is_refused() -> None:
    """Postgres refuses to compare with NUL. The API must not report that as an unavailable Postgres."""
    with pytest.raises(InvalidRequest):
        read_cursor(write_cursor(["sessions"], (1, "PA\0")), ["sessions"], (int, str))
