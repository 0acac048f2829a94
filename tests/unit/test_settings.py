"""Settings report all problems at once, one line each, without any secret."""

import io
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console

from shared.errors import SettingsInvalid
from shared.infra.settings import DatabaseUrl, RateLimits, derive_livekit_api_url, load_settings, parse_database_url
from tests.examples import examples

COMPLETE = {
    "DATABASE_URL": "postgresql://relay:pw@localhost:5432/relay",
    "REDIS_URL": "redis://localhost:6379/0",
    "LIVEKIT_URL": "wss://livekit.example.com",
    "LIVEKIT_API_KEY": "key",
    "LIVEKIT_API_SECRET": "a secret",
    "AUTH_SECRET": "sixteen characters or more",
    "RELAY_API_URL": "https://relay.example.com",
}
MALFORMED = [
    ("DATABASE_URL", "mysql://localhost/relay"),
    ("DATABASE_URL", "localhost:5432"),
    ("DATABASE_URL", "postgresql://localhost:port/relay"),
    ("DATABASE_URL", "postgresql://localhost:99999/relay"),
    ("DATABASE_URL", "postgresql://[::1/relay"),
    ("DATABASE_URL", "postgresql:///relay"),
    ("DATABASE_URL", 'postgresql://localhost/relay?schema=a"b'),
    ("DATABASE_URL", "postgresql://localhost/relay?schema="),
    ("REDIS_URL", "http://localhost"),
    ("REDIS_URL", "redis://"),
    ("LIVEKIT_URL", "https://livekit.example.com"),
    ("LIVEKIT_URL", "wss://:7880"),
    ("LIVEKIT_API_URL", "wss://livekit.example.com"),
    ("AUTH_SECRET", "short"),
    ("AUTH_SECRET_PREVIOUS", "short"),
    ("RELAY_API_URL", "relay.example.com"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("PORT", "3000.0"),
    ("PORT", "٣٠٠٠"),
    ("PORT", "http"),
    ("PORT", "9" * 5000),
    ("RECONCILE_INTERVAL_SECONDS", "1"),
    ("RECONCILE_INTERVAL_SECONDS", "3601"),
    ("RECONCILE_INTERVAL_SECONDS", "30s"),
    ("EVENT_RETENTION_DAYS", "0"),
    ("EVENT_RETENTION_DAYS", "1"),
    ("EVENT_RETENTION_DAYS", "-1"),
]


def lines(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(environ)
    assert str(refused.value).splitlines() == refused.value.lines
    return refused.value.lines


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_variable_is_reported_by_name_in_one_line(name: str, value: str | None) -> None:
    reported = lines({**{k: v for k, v in COMPLETE.items() if k != name}, **({} if value is None else {name: value})})
    assert len(reported) == 1
    assert reported[0].startswith(f"{name} is not set")


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_malformed_variable_is_reported_by_name_in_one_line(name: str, value: str) -> None:
    reported = lines({**COMPLETE, name: value})
    assert len(reported) == 1
    assert reported[0].startswith(f"{name} ")


def test_all_problems_are_reported_at_once() -> None:
    assert [line.split()[0] for line in lines({"PORT": "x", "LIVEKIT_API_URL": "x"})] == [
        "DATABASE_URL", "REDIS_URL", "LIVEKIT_URL", "LIVEKIT_API_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET", "AUTH_SECRET",
        "RELAY_API_URL", "PORT",
    ]  # fmt: skip


broken = st.dictionaries(st.sampled_from([*COMPLETE, "LIVEKIT_API_URL", "PORT"]), st.text(max_size=12) | st.none())


@law(max_examples=examples(300))
@given(broken)
def test_any_environment_loads_or_is_refused_by_one_line_per_variable(changes: dict[str, str | None]) -> None:
    environ = {**COMPLETE, **changes}
    try:
        load_settings({name: value for name, value in environ.items() if value is not None})
    except SettingsInvalid as error:
        named = [line.split()[0] for line in error.lines]
        assert len(set(named)) == len(named)
        assert set(named) <= set(changes)


# Long enough to occur in no message by chance, with the characters that have a meaning in URLs.
secrets = st.text("abcXYZ0189:/?#[]@!$&'()*+,;=% \"\\é", min_size=3, max_size=20).map(
    lambda text: f"Q7v{text.strip()}w9Zk"
)
breakage = st.sampled_from([{}, {"PORT": "x"}, {"LIVEKIT_URL": "x", "RELAY_API_URL": ""}, {"LIVEKIT_API_KEY": ""}])
database_urls = st.sampled_from([
    "postgresql://relay:{}@localhost/relay", "postgresql://relay:{}@localhost/relay?schema=x", "mysql://relay:{}@localhost/relay",
    "postgresql://relay:{}@localhost:bad/relay", "postgresql://relay:{}@/relay", "postgresql://relay:{}@[::1/relay", "{}",
    "postgresql://relay:{}@localhost/relay?schema=x-y", "postgresql://localhost/relay?schema={}",
    "postgresql://localhost/relay?password={}",
])  # fmt: skip
redis_urls = st.sampled_from(
    ["rediss://:{}@localhost:6379/0", "redis://:{}@localhost:bad", "http://:{}@localhost", "{}"]
)


@law(max_examples=examples(400))
@given(secrets, st.booleans(), database_urls, redis_urls, breakage)
def test_no_secret_appears_in_a_repr_or_an_error(
    secret: str, quoted: bool, database: str, redis: str, broken: dict[str, str]
) -> None:
    """An unescaped password breaks its URL, and the message of the URL parser would quote it."""
    in_url = quote(secret, safe="") if quoted else secret
    environ = {**COMPLETE, "LIVEKIT_API_SECRET": secret, "AUTH_SECRET": secret * 2, **broken}
    environ |= {"DATABASE_URL": database.format(in_url), "REDIS_URL": redis.format(in_url)}
    try:
        loaded = load_settings(environ)
        console = Console(file=io.StringIO(), width=10_000)
        console.print(loaded, loaded.database, [loaded])
        assert isinstance(console.file, io.StringIO)
        shown = f"{loaded!r} {loaded!s} {loaded.database!r} {[loaded]!r} {console.file.getvalue()}"
    except SettingsInvalid as error:
        shown = "".join(traceback.format_exception(error)) + repr(error)
    try:
        shown += repr(parse_database_url(environ["DATABASE_URL"]))
    except SettingsInvalid as error:
        shown += "".join(traceback.format_exception(error))
    for text in (secret, in_url, "Q7v", "w9Zk"):
        assert text not in shown


def test_prisma_parameters_are_removed_from_the_database_url() -> None:
    url = "postgres://u:p%40ss@host:5433/db?schema=my_schema&connection_limit=5&pgbouncer=true&sslmode=require"
    assert parse_database_url(url) == DatabaseUrl("postgresql://u:p%40ss@host:5433/db?sslmode=require", "my_schema")
    assert parse_database_url("postgresql://host/db").schema is None


@pytest.mark.parametrize("url", ["postgresql:///relay?host=/run/pg", "postgresql://u@/relay?host=/run/pg&schema=s"])
def test_unix_socket_urls_are_accepted(url: str) -> None:
    """A rebuilt URL without a host may lose its ``//``, and libpq then does not recognize it as a URL."""
    parts = conninfo_to_dict(parse_database_url(url).dsn)
    assert (parts["host"], parts["dbname"]) == ("/run/pg", "relay")
    redis = "unix:///run/redis/redis.sock?db=1"
    assert load_settings({**COMPLETE, "REDIS_URL": redis, "DATABASE_URL": url}).redis_url == redis


@pytest.mark.parametrize(("text", "port"), [(None, 3000), ("", 3000), ("1", 1), (" 8080 ", 8080), ("65535", 65535)])
def test_port_is_parsed_and_defaults_to_3000(text: str | None, port: int) -> None:
    assert load_settings({**COMPLETE, **({} if text is None else {"PORT": text})}).port == port


def test_livekit_api_url_is_derived_from_livekit_url_unless_given() -> None:
    assert load_settings(COMPLETE).livekit_api_url == "https://livekit.example.com"
    given_url = load_settings({**COMPLETE, "LIVEKIT_API_URL": "http://livekit:7880/"})
    assert given_url.livekit_api_url == "http://livekit:7880"
    assert derive_livekit_api_url("ws://127.0.0.1:7880") == "http://127.0.0.1:7880"


def test_values_are_loaded_unchanged() -> None:
    loaded = load_settings(COMPLETE)
    assert (loaded.livekit_api_key, loaded.livekit_api_secret) == ("key", "a secret")
    assert (loaded.auth_secret, loaded.relay_api_url) == (COMPLETE["AUTH_SECRET"], COMPLETE["RELAY_API_URL"])
    assert loaded.database.dsn == COMPLETE["DATABASE_URL"]


def test_previous_auth_secret_is_none_unless_given() -> None:
    assert load_settings({**COMPLETE, "AUTH_SECRET_PREVIOUS": " "}).auth_secret_previous is None
    assert load_settings({**COMPLETE, "AUTH_SECRET_PREVIOUS": "p" * 16}).auth_secret_previous == "p" * 16


def test_rate_limits_and_trusted_proxies_are_parsed() -> None:
    assert load_settings(COMPLETE).rate_limits == RateLimits()
    chosen = {
        "RATE_LIMIT_TOKENS_PER_KEY": "0",
        "RATE_LIMIT_API_PER_PROJECT": "12",
        "TRUSTED_PROXIES": "10.0.0.0/8, ::1",
    }
    settings = load_settings({**COMPLETE, **chosen})
    assert (settings.rate_limits.tokens_per_key, settings.rate_limits.api_per_project) == (0, 12)
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    for name, value in (("RATE_LIMIT_API_PER_KEY", "-1"), ("TRUSTED_PROXIES", "*"), ("TRUSTED_PROXIES", "proxy.local")):
        with pytest.raises(SettingsInvalid) as refused:
            load_settings({**COMPLETE, name: value})
        assert [line.split()[0] for line in refused.value.lines] == [name]


@pytest.mark.parametrize(
    ("given", "read"), [("", "first"), ("first", "first"), ("OPEN", "open"), (" invite ", "invite")]
)
def test_relay_signup_is_parsed(given: str, read: str) -> None:
    assert load_settings({**COMPLETE, "RELAY_SIGNUP": given}).sign_up == read


def test_unknown_relay_signup_value_is_refused() -> None:
    """A typo must not fall back to a rule that admits more people."""
    with pytest.raises(SettingsInvalid, match="RELAY_SIGNUP must be one of first, open, invite"):
        load_settings({**COMPLETE, "RELAY_SIGNUP": "invited"})
