"""The portal's cookies, form tokens and passwords."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.portal.admission import safe_path
from services.api.portal.cookies import Cookies
from services.api.portal.passwords.attempts import subjects_of
from services.api.portal.passwords.hashing import Passwords, TooBusy
from services.api.portal.passwords.rules import objection_to

cookies = Cookies("a secret of sixteen or more", secure=False)


def value_of(header: str) -> str:
    return header.partition("=")[2].partition(";")[0]


def test_signed_cookie_is_read() -> None:
    browser = cookies.new_browser()
    assert cookies.read(value_of(cookies.header(browser))) == (browser, True)
    assert cookies.new_browser() != browser


@given(st.text())
def test_unsigned_cookie_is_refused(value: str) -> None:
    assert cookies.read(value) is None


@given(st.integers(0, 85), st.sampled_from("abcXYZ019-_."))
def test_altered_cookie_is_refused(place: int, letter: str) -> None:
    genuine = value_of(cookies.header("x" * 43))
    altered = genuine[:place] + letter + genuine[place + 1 :]
    # The last base64 letter of 32 bytes has two unused bits. Only the canonical spelling is accepted.
    assert (cookies.read(altered) is None) == (altered != genuine)


def test_cookie_signed_with_another_secret_is_refused() -> None:
    other = Cookies("another secret of sixteen or more", secure=False)
    assert other.read(value_of(cookies.header("x" * 43))) is None
    assert other.form_token("x") != cookies.form_token("x")


def test_previous_secret_verifies_but_does_not_sign() -> None:
    old, new = "another secret of sixteen or more", "a secret of sixteen or more"
    before, changing = Cookies(old, secure=False), Cookies(new, secure=False, previous=old)
    assert changing.read(value_of(before.header("x" * 43))) == ("x" * 43, False)
    assert changing.read(value_of(changing.header("x" * 43))) == ("x" * 43, True)
    assert changing.form_token_is_right("x" * 43, before.form_token("x" * 43))
    assert not changing.form_token_is_right("y" * 43, before.form_token("x" * 43))
    assert changing.header("x") == cookies.header("x") != before.header("x")
    assert changing.form_token("x") == cookies.form_token("x") != before.form_token("x")
    # Cookies and forms use different derived secrets, with the current and the previous value.
    assert not changing.form_token_is_right("x" * 43, value_of(before.header("x" * 43)).partition(".")[2])


@given(st.text())
def test_form_token_is_valid_for_its_own_browser_only(token: str) -> None:
    assert not cookies.form_token_is_right("x" * 43, token)
    assert cookies.form_token_is_right("x" * 43, cookies.form_token("x" * 43))
    assert not cookies.form_token_is_right("y" * 43, cookies.form_token("x" * 43))


@given(st.text())
def test_redirect_path_never_leaves_the_site(wanted: str) -> None:
    path = safe_path(wanted)
    assert path.startswith("/")
    assert not path.startswith(("//", "/\\"))
    assert path.isprintable()


@pytest.mark.parametrize(
    ("password", "fine"),
    [
        ("short", False),
        ("a" * 300, False),
        ("aaaaaaaaaaaa", False),
        ("Password123!", False),
        ("ada@example.com", False),
        ("correct horse battery", True),
        ("пароль длинный", True),
    ],
)
def test_too_short_too_long_and_predictable_passwords_are_refused(password: str, fine: bool) -> None:
    assert (objection_to(password, "ada@example.com") is None) == fine


async def test_password_checks_beyond_the_queue_limit_are_refused() -> None:
    passwords = Passwords()
    hashed = await passwords.hash("correct horse battery")
    assert await passwords.matches(hashed, "correct horse battery")
    assert not await passwords.matches(hashed, "correct horse batterie")
    assert not await passwords.matches(None, "correct horse battery")
    assert not await passwords.matches("no hash at all", "x")
    many = await asyncio.gather(*(passwords.matches(hashed, "wrong") for _ in range(40)), return_exceptions=True)
    assert many.count(False) == 32
    assert sum(isinstance(answer, TooBusy) for answer in many) == 8
    assert await passwords.matches(hashed, "correct horse battery")  # the queue is empty again


def test_ipv6_network_counts_as_one_client() -> None:
    """IPv4 addresses in IPv6 notation count separately."""
    assert subjects_of("a", "2001:db8:1:2:3:4:5:6") == subjects_of("a", "2001:db8:1:2:ffff::1")
    assert subjects_of("a", "::ffff:192.0.2.1") == subjects_of("a", "192.0.2.1")
    assert len(set(subjects_of("a", "::ffff:192.0.2.1")) & set(subjects_of("a", "::ffff:192.0.2.2"))) == 1
    assert subjects_of("Ada@Example.com ", "192.0.2.1") == subjects_of("ada@example.com", "192.0.2.1")
    assert len(set(subjects_of("a", "192.0.2.1")) & set(subjects_of("b", "192.0.2.1"))) == 1


@given(st.emails())
def test_device_cookie_is_valid_for_its_account_only(email: str) -> None:
    cookie = cookies.device_cookie(email)
    assert cookie.path == "/"
    assert cookies.device_is_known(cookie.value, email)
    assert not cookies.device_is_known(cookie.value, f"x{email}")
    assert not cookies.device_is_known("", email)
