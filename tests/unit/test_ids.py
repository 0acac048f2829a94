"""API keys and room names."""

import math
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.infra.ids import (
    MODES,
    KeyType,
    Mode,
    key_digest,
    livekit_room,
    new_id,
    new_key,
    parse_key,
    parse_livekit_room,
)
from tests.examples import examples

TYPES: tuple[KeyType, ...] = ("secret", "publishable")
KINDS = [(mode, key_type) for mode in MODES for key_type in TYPES]
FORM = re.compile(r"(sk|pk)_(live|test)_([0-9A-Za-z]{32})([0-9A-Za-z]{6})")
laws = settings(max_examples=examples(300))

project_ids = st.text("ab2", min_size=8, max_size=10) | st.text(
    string.ascii_lowercase + string.digits, min_size=8, max_size=32
)
# Room names that a client may choose, including the separator and another project's prefix.
displays = st.one_of(
    st.from_regex(r"\A[A-Za-z0-9._:-]{1,128}\Z"),
    st.text("_ab2-", min_size=1, max_size=12),
    st.sampled_from(["__", "_", "_lobby", "__lobby", "p_aaaaaaaa__lobby", "a__b"]),
)
rooms = st.tuples(project_ids, st.sampled_from(MODES), displays)


@pytest.mark.parametrize(("mode", "key_type"), KINDS)
def test_new_key_encodes_its_mode_and_type(mode: Mode, key_type: KeyType) -> None:
    key = new_key(mode, key_type)
    form = FORM.fullmatch(key)
    assert form is not None
    assert (form[1], form[2]) == ("sk" if key_type == "secret" else "pk", mode)
    assert parse_key(key) == (mode, key_type, key_digest(key))


@pytest.mark.parametrize(("mode", "key_type"), KINDS)
def test_key_with_one_wrong_or_missing_character_is_refused(mode: Mode, key_type: KeyType) -> None:
    """If the checksum covered only the random part, a live key would also be valid as a test key."""
    key = new_key(mode, key_type)
    for position, right in enumerate(key):
        for wrong in set(string.ascii_letters + string.digits + "_-. é٣") - {right}:
            assert parse_key(key[:position] + wrong + key[position + 1 :]) is None
        assert parse_key(key[:position] + key[position + 1 :]) is None


@laws
@given(st.sampled_from(KINDS), st.text(max_size=3), st.text(max_size=3))
def test_key_with_surrounding_text_is_refused(kind: tuple[Mode, KeyType], before: str, after: str) -> None:
    assert (parse_key(before + new_key(*kind) + after) is None) == bool(before or after)
    assert parse_key(new_key(*kind) + "\n") is None


@laws
@given(st.text() | st.from_regex(FORM, fullmatch=True))
def test_forged_key_is_refused_without_an_exception(text: str) -> None:
    assert parse_key(text) is None


def test_random_part_of_a_key_has_at_least_190_bits() -> None:
    """Computed from the letters that occur at each position of real keys.

    So a smaller alphabet at any position is noticed.
    """
    parts = [key[8:-6] for key in (new_key("live", "secret") for _ in range(2000))]
    assert {len(part) for part in parts} == {32}
    alphabets = [set(letters) for letters in zip(*parts, strict=True)]
    assert sum(math.log2(len(alphabet)) for alphabet in alphabets) >= 190
    assert len(set(parts)) == len(parts)


def test_different_keys_have_different_digests() -> None:
    keys = [new_key(*kind) for kind in KINDS]
    assert len({key_digest(key) for key in keys}) == len(keys)
    assert all(len(key_digest(key)) == 32 for key in keys)


def test_new_id_can_be_parsed_from_a_livekit_room_name() -> None:
    """A ``_`` in a project id could end it too early. Another project would be billed for its rooms."""
    ids = [new_id() for _ in range(500)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]{16}", one) for one in ids)
    assert all(parse_livekit_room(livekit_room(one, "live", "x")) == (one, "live", "x") for one in ids)


@laws
@given(rooms)
def test_livekit_room_name_round_trips(room: tuple[str, Mode, str]) -> None:
    assert parse_livekit_room(livekit_room(*room)) == room


@laws
@given(rooms, rooms)
def test_different_rooms_have_different_livekit_names(one: tuple[str, Mode, str], other: tuple[str, Mode, str]) -> None:
    assert (livekit_room(*one) == livekit_room(*other)) == (one == other)


def test_livekit_room_names_keep_their_published_format() -> None:
    assert livekit_room("abcdefgh", "live", "lobby") == "p_abcdefgh__lobby"
    assert livekit_room("abcdefgh", "test", "lobby") == "t_abcdefgh__lobby"


@pytest.mark.parametrize(
    "name", ["", "lobby", "p_abcdefgh_lobby", "p_abcdefgh__", "p___lobby", "P_abcdefgh__lobby", "x_abcdefgh__lobby",
             "p_abcdéfgh__lobby", "p_ABCDEFGH__lobby", " p_abcdefgh__lobby", "p_abcd_efgh__lobby"]
)  # fmt: skip
def test_rooms_without_a_project_prefix_have_no_owner(name: str) -> None:
    assert parse_livekit_room(name) is None
