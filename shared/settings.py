"""Settings from the environment: the one place that reads it. Every problem is told, one line a variable, no value of a
secret in any of them."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from shared.errors import SettingsInvalid
from shared.models.accounts import SIGN_UPS, SignUp

_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_NUMBER = re.compile(r"[0-9]{1,9}")  # int() refuses a number of thousands of digits with an error of its own
# Query parameters of Prisma's URLs that no Postgres driver knows.
_PRISMA_ONLY = {"schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size"}
DEFAULT_PORT = 3000
DEFAULT_HOST = "127.0.0.1"
DEFAULT_DATA_DIR = ".relay"
DEFAULT_RECONCILE_INTERVAL_S = 30
DEFAULT_EVENT_RETENTION_DAYS = 90
DEFAULT_TRUSTED_PROXIES = ("127.0.0.1", "::1")
_LARGEST_RATE = 100_000_000
LOG_FORMATS = ("auto", "json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")


class KeyPair(NamedTuple):
    """One of the pairs in LiveKit's own configuration (``keys:``)."""

    api_key: str
    api_secret: str

    def __repr__(self) -> str:
        return "KeyPair(...)"


class DatabaseUrl(msgspec.Struct, frozen=True):
    """A Postgres URL without Prisma's extras, and the schema that they named (None: the server's default)."""

    dsn: str
    schema: str | None = None

    def __repr__(self) -> str:
        return "DatabaseUrl(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []  # rich prefers this to repr, and msgspec's own shows every field


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Requests a minute; 0 is no limit. ``unknown_keys`` counts, for each client address, lookups of keys that do not
    exist."""

    tokens_per_key: int = 300_000
    tokens_per_project: int = 600_000
    api_per_key: int = 3_000
    api_per_project: int = 6_000
    unknown_keys: int = 60


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the services run with. ``repr`` shows no secret."""

    database: DatabaseUrl
    redis_url: str
    livekit_url: str
    livekit_api_url: str
    livekit_api_key: str
    livekit_api_secret: str
    auth_secret: str
    auth_secret_previous: str | None = None
    relay_api_url: str
    port: int = DEFAULT_PORT
    host: str = DEFAULT_HOST
    reconcile_interval_s: int = DEFAULT_RECONCILE_INTERVAL_S
    event_retention_days: int = DEFAULT_EVENT_RETENTION_DAYS
    livekit_previous: KeyPair | None = None
    redis_streams_url: str | None = None
    otlp_endpoint: str | None = None
    worker_port: int = 0
    drain_s: int = 0
    log_format: str = LOG_FORMATS[0]
    log_level: str = "info"
    rate_limits: RateLimits = RateLimits()
    trusted_proxies: tuple[str, ...] = DEFAULT_TRUSTED_PROXIES
    sign_up: SignUp = "first"

    def __repr__(self) -> str:
        return f"Settings(relay_api_url={self.relay_api_url!r}, port={self.port}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("relay_api_url", self.relay_api_url), ("port", self.port)]


def _parts(url: str, schemes: tuple[str, ...], name: str, need_host: bool = True) -> SplitResult:
    example = {"DATABASE_URL": "postgresql://user:password@host:5432/relay", "REDIS_URL": "redis://host:6379/0"}
    hint = example.get(name, f"{schemes[0]}://host")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises on a port that is no number
    except ValueError:
        raise SettingsInvalid([f"{name} is not a valid URL. Expected something like {hint}"]) from None
    if parts.scheme not in schemes:
        raise SettingsInvalid([f"{name} must start with {' or '.join(s + '://' for s in schemes)}, like {hint}"])
    if need_host and not parts.hostname:
        raise SettingsInvalid([f"{name} names no host. Expected something like {hint}"])
    return parts


def parse_database_url(url: str) -> DatabaseUrl:
    """Splits Prisma's ``?schema=NAME`` off and drops its other private parameters. Raises ``SettingsInvalid``."""
    parts = _parts(url, ("postgresql", "postgres"), "DATABASE_URL", need_host=False)
    query = parse_qsl(parts.query, keep_blank_values=True)
    schema = dict(query).get("schema")
    if schema is not None and not _SCHEMA.fullmatch(schema):
        raise SettingsInvalid(["DATABASE_URL has a ?schema= that is no plain Postgres name (letters, digits, _)"])
    kept = [(key, value) for key, value in query if key not in _PRISMA_ONLY]
    if not parts.hostname and "host" not in dict(kept):
        raise SettingsInvalid(["DATABASE_URL names no host. Expected postgresql://user:password@host:5432/relay"])
    # urlunsplit leaves the // out where there is no host (a Unix socket), and libpq takes that for no URL at all.
    rest = urlunsplit(parts._replace(scheme="", query=urlencode(kept))).removeprefix("//")
    return DatabaseUrl(f"postgresql://{rest}", schema)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def derive_livekit_api_url(livekit_url: str) -> str:
    """The http(s) form of LiveKit's ws(s) URL."""
    return re.sub(r"^ws", "http", livekit_url)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads and checks every setting at once. Raises ``SettingsInvalid`` with one line per missing or malformed variable."""
    env = os.environ if environ is None else environ
    lines: list[str] = []

    def required(name: str, meaning: str) -> str:
        value = env.get(name, "").strip()
        if not value:
            lines.append(f"{name} is not set: {meaning}")
        return value

    def url(name: str, value: str, *schemes: str) -> str:
        if value:
            try:
                _parts(value, schemes, name, need_host=not value.startswith("unix://"))
            except SettingsInvalid as error:
                lines.extend(error.lines)
        return value.rstrip("/")

    database = DatabaseUrl("")
    if dsn := required("DATABASE_URL", "the URL of the Postgres database"):
        try:
            database = parse_database_url(dsn)
        except SettingsInvalid as error:
            lines.extend(error.lines)
    redis_url = url(
        "REDIS_URL", required("REDIS_URL", "the URL of Redis, rediss:// with TLS"), "redis", "rediss", "unix"
    )
    streams_url = url("REDIS_STREAMS_URL", env.get("REDIS_STREAMS_URL", "").strip(), "redis", "rediss")
    livekit_url = url(
        "LIVEKIT_URL", required("LIVEKIT_URL", "the wss:// URL of LiveKit, given to clients"), "wss", "ws"
    )
    otlp = url("OTEL_EXPORTER_OTLP_ENDPOINT", env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip(), "http", "https")
    livekit_api_url = url("LIVEKIT_API_URL", env.get("LIVEKIT_API_URL", "").strip(), "https", "http")
    api_key = required("LIVEKIT_API_KEY", "the key of the pair in LiveKit's own configuration")
    api_secret = required("LIVEKIT_API_SECRET", "the secret that belongs to LIVEKIT_API_KEY")
    previous_key = env.get("LIVEKIT_API_KEY_PREVIOUS", "").strip()
    previous_secret = env.get("LIVEKIT_API_SECRET_PREVIOUS", "").strip()
    if previous_key and not previous_secret:
        lines.append("LIVEKIT_API_KEY_PREVIOUS is set without LIVEKIT_API_SECRET_PREVIOUS: set both or neither")
    auth_secret = required("AUTH_SECRET", "a long random value, such as the output of `openssl rand -base64 32`")
    auth_previous = env.get("AUTH_SECRET_PREVIOUS", "").strip()
    for name, secret in (("AUTH_SECRET", auth_secret), ("AUTH_SECRET_PREVIOUS", auth_previous)):
        if secret and len(secret) < 16:
            lines.append(f"{name} is too short: use at least 16 characters, such as `openssl rand -base64 32` prints")
    relay_api_url = url("RELAY_API_URL", required("RELAY_API_URL", "the public URL of this instance"), "https", "http")

    def number(name: str, default: int, low: int, high: int, zero: str = "") -> int:
        text = env.get(name, "").strip() or str(default)
        value = int(text) if _NUMBER.fullmatch(text) else -1
        if not (low <= value <= high or (zero and value == 0)):
            lines.append(f"{name} must be a number from {low} to {high}{zero and ', or 0 ' + zero}")
        return value

    port = number("PORT", DEFAULT_PORT, 1, 65535)
    # Below a few seconds a pass would ask LiveKit more often than its own listing is brought up to date.
    reconcile_s = number("RECONCILE_INTERVAL_SECONDS", DEFAULT_RECONCILE_INTERVAL_S, 2, 3600, "to never reconcile")
    retention = number("EVENT_RETENTION_DAYS", DEFAULT_EVENT_RETENTION_DAYS, 2, 36500)
    worker_port = number("WORKER_PORT", 0, 1, 65535, "to listen on nothing")
    drain_s = number("DRAIN_SECONDS", 0, 0, 60)

    def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
        value = env.get(name, "").strip().lower() or default
        if value not in choices:
            lines.append(f"{name} must be one of {', '.join(choices)}")
        return value

    log_format = choice("LOG_FORMAT", LOG_FORMATS[0], LOG_FORMATS)
    log_level = choice("LOG_LEVEL", "info", LOG_LEVELS)

    def rate(name: str, default: int) -> int:
        return number(name, default, 1, _LARGEST_RATE, "for no limit")

    rate_limits = RateLimits(
        tokens_per_key=rate("RATE_LIMIT_TOKENS_PER_KEY", RateLimits().tokens_per_key),
        tokens_per_project=rate("RATE_LIMIT_TOKENS_PER_PROJECT", RateLimits().tokens_per_project),
        api_per_key=rate("RATE_LIMIT_API_PER_KEY", RateLimits().api_per_key),
        api_per_project=rate("RATE_LIMIT_API_PER_PROJECT", RateLimits().api_per_project),
        unknown_keys=rate("RATE_LIMIT_UNKNOWN_KEYS", RateLimits().unknown_keys),
    )
    proxies = tuple(env.get("TRUSTED_PROXIES", "").replace(",", " ").split()) or DEFAULT_TRUSTED_PROXIES
    if not all(_is_network(proxy) for proxy in proxies):
        lines.append("TRUSTED_PROXIES must be addresses or networks, like 10.0.0.0/8, separated by commas")
    sign_up = choice("RELAY_SIGNUP", "first", SIGN_UPS)
    if lines:
        raise SettingsInvalid(lines)
    return Settings(
        database=database,
        redis_url=redis_url,
        redis_streams_url=streams_url or None,
        otlp_endpoint=otlp or None,
        livekit_url=livekit_url,
        livekit_api_url=livekit_api_url or derive_livekit_api_url(livekit_url),
        livekit_api_key=api_key,
        livekit_api_secret=api_secret,
        auth_secret=auth_secret,
        auth_secret_previous=auth_previous or None,
        relay_api_url=relay_api_url,
        port=port,
        host=env.get("RELAY_HOST", "").strip() or DEFAULT_HOST,
        reconcile_interval_s=reconcile_s,
        event_retention_days=retention,
        livekit_previous=KeyPair(previous_key or api_key, previous_secret) if previous_secret else None,
        worker_port=worker_port,
        drain_s=drain_s,
        log_format=log_format,
        log_level=log_level,
        rate_limits=rate_limits,
        trusted_proxies=proxies,
        sign_up=next((known for known in SIGN_UPS if known == sign_up), "first"),
    )


def inherited_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with ``overrides``, to start a child process with."""
    return {**os.environ, **overrides}


def environment() -> Mapping[str, str]:
    """This process's environment, for the command line's lookups."""
    return os.environ


def default_data_dir() -> Path:
    """``RELAY_DATA_DIR``, else ``.relay`` in the working directory."""
    return Path(os.environ.get("RELAY_DATA_DIR", "") or DEFAULT_DATA_DIR)
