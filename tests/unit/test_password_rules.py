"""New passwords: predictable ones are refused in any combination, random ones are accepted."""

import secrets
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.portal.passwords.rules import _COMMON, MAX_LENGTH, objection_to

EMAIL = "ada.lovelace@example.com"
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "abcdefghijklmnopqrstuvwxyz", "0123456789")
TAILS = st.sampled_from(["", "1", "12", "123", "!", "1!", "2024", "1999", "!!"])
WORDS = st.sampled_from([*sorted(_COMMON), "ada", "lovelace", "example"])


@pytest.mark.parametrize(
    "password",
    [
        "qwertyuiop", "1234567890", "password123", "iloveyou123", "abcdefghij", "letmein1234", "asdfghjkl;", "zxcvbnm123",
        "1q2w3e4r5t", "1qaz2wsx3edc", "qazwsxedcrfv", "p@ssw0rd123", "0987654321", "relay-gateway", "adalovelace",
        "lovelace1815", "football123", "sunshine12", "dragon12345", "Summer2024!", "relayrelay1", "PASSWORD!!1",
    ],
)  # fmt: skip
def test_known_passwords_are_refused(password: str) -> None:
    assert objection_to(password, EMAIL) is not None


@given(WORDS, WORDS, TAILS, st.sampled_from([str.lower, str.upper, str.title]))
def test_two_common_words_with_a_suffix_are_refused(one: str, two: str, tail: str, case: "type[str]") -> None:
    assert objection_to(case(one + two) + tail, EMAIL) is not None


@given(st.sampled_from(ROWS), st.integers(0, 20), st.integers(3, 26), st.booleans(), TAILS)
def test_keyboard_and_alphabet_sequences_are_refused(
    row: str, start: int, size: int, backwards: bool, tail: str
) -> None:
    run = row[start : start + size]
    assert objection_to((run[::-1] if backwards else run) + tail, EMAIL) is not None or len(run) < 3


@given(st.text(string.printable, min_size=1, max_size=3), st.integers(4, 60))
def test_repeated_pieces_are_refused(piece: str, times: int) -> None:
    assert objection_to(piece * times, EMAIL) is not None


@given(st.integers(16, 40))
def test_random_passwords_are_accepted(size: int) -> None:
    assert objection_to(secrets.token_urlsafe(size), EMAIL) is None


@pytest.mark.parametrize(
    "password", ["correct horse battery staple", "a new and long one", "Tr0ub4dor&3", "kf83hs92kd", "grüne Gürkchen"]
)
def test_uncommon_passwords_and_passphrases_are_accepted(password: str) -> None:
    assert objection_to(password, EMAIL) is None


@given(st.text(min_size=MAX_LENGTH - 20, max_size=MAX_LENGTH), st.text(max_size=254))
def test_longest_passwords_are_checked_within_a_second(password: str, email: str) -> None:
    began = time.process_time()
    objection_to(password, email)
    assert time.process_time() - began < 1
