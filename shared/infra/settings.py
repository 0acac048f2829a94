"""Read the settings from the environment. No other module reads it.

All problems are reported together, one line for each variable. No line holds the value of a secret.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from shared.errors import SettingsInvalid
from shared.infra.postgres.database_url import DatabaseUrl as DatabaseUrl
from shared.infra.postgres.database_url import parse_database_url as parse_database_url
from shared.infra.settings_table import BY_NAME, SETTINGS, Setting, cleaned, is_quoted
from shared.models.accounts import SIGN_UPS, SignUp
from shared.models.key_pair import KeyPair

_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,9}")  # int() refuses thousands of digits with another error
DEFAULT_DATA_DIR = ".relay"


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _number(name: str) -> int:
    """Return the default of a setting that is a number."""
    return int(BY_NAME[name].default)


DEFAULT_PORT = _number("PORT")
DEFAULT_TRUSTED_PROXIES = _listed(BY_NAME["TRUSTED_PROXIES"].default)


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in requests a minute; 0 means no limit.

    ``unknown_keys`` limits lookups of keys that do not exist, for each client address.
    """

    tokens_per_key: int = _number("RATE_LIMIT_TOKENS_PER_KEY")
    tokens_per_project: int = _number("RATE_LIMIT_TOKENS_PER_PROJECT")
    api_per_key: int = _number("RATE_LIMIT_API_PER_KEY")
    api_per_project: int = _number("RATE_LIMIT_API_PER_PROJECT")
    unknown_keys: int = _number("RATE_LIMIT_UNKNOWN_KEYS")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a service. ``repr`` shows no secret."""

    database: DatabaseUrl
    redis_url: str
    livekit_url: str
    livekit_api_url: str
    livekit_api_key: str
    livekit_api_secret: str
    auth_secret: str
    auth_secret_previous: str | None = None
    relay_api_url: str
    relay_internal_url: str | None = None
    port: int = DEFAULT_PORT
    host: str = BY_NAME["RELAY_HOST"].default
    reconcile_interval_s: int = _number("RECONCILE_INTERVAL_SECONDS")
    event_retention_days: int = _number("EVENT_RETENTION_DAYS")
    livekit_previous: KeyPair | None = None
    redis_streams_url: str | None = None
    otlp_endpoint: str | None = None
    worker_port: int = _number("WORKER_PORT")
    drain_s: int = _number("DRAIN_SECONDS")
    log_format: str = BY_NAME["LOG_FORMAT"].default
    log_level: str = BY_NAME["LOG_LEVEL"].default
    rate_limits: RateLimits = RateLimits()
    trusted_proxies: tuple[str, ...] = DEFAULT_TRUSTED_PROXIES
    sign_up: SignUp = "first"
    portal_hosts: tuple[str, ...] = ()

    @property
    def own_url(self) -> str:
        """The URL at which Relay's own commands reach the API."""
        return self.relay_internal_url or self.relay_api_url

    def __repr__(self) -> str:
        return f"Settings(relay_api_url={self.relay_api_url!r}, port={self.port}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("relay_api_url", self.relay_api_url), ("port", self.port)]


def _parts(url: str, schemes: tuple[str, ...], name: str, need_host: bool = True) -> SplitResult:
    example = {"REDIS_URL": "redis://host:6379/0"}
    hint = example.get(name, f"{schemes[0]}://host")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is not a number
    except ValueError:
        raise SettingsInvalid([f"{name} is not a valid URL. Expected something like {hint}"]) from None
    if parts.scheme not in schemes:
        raise SettingsInvalid([f"{name} must start with {' or '.join(s + '://' for s in schemes)}, like {hint}"])
    if need_host and not parts.hostname:
        raise SettingsInvalid([f"{name} has no host. Expected something like {hint}"])
    return parts


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def derive_livekit_api_url(livekit_url: str) -> str:
    """Turn LiveKit's ws(s) URL into its http(s) URL."""
    return re.sub(r"^ws", "http", livekit_url)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check every setting in ``SETTINGS``.

    Raises ``SettingsInvalid`` with one line for each missing or malformed variable.
    """
    env = os.environ if environ is None else environ
    lines: list[str] = []
    values: dict[str, str] = {}
    database = DatabaseUrl("")
    for setting in SETTINGS:
        text = cleaned(env.get(setting.name, ""))
        try:
            values[setting.name] = _checked(setting, text)
            if setting.kind == "database":
                database = parse_database_url(text)
        except SettingsInvalid as error:
            lines.extend(error.lines)
    if _pair_is_halved(env):
        lines.append("LIVEKIT_API_KEY_PREVIOUS is set without LIVEKIT_API_SECRET_PREVIOUS: set both or neither")
    if lines:
        raise SettingsInvalid(lines)
    return _settings(values, database)


def _pair_is_halved(env: Mapping[str, str]) -> bool:
    """Return whether the previous LiveKit pair has a key but no secret."""
    key, secret = (cleaned(env.get(f"LIVEKIT_API_{part}_PREVIOUS", "")) for part in ("KEY", "SECRET"))
    return bool(key and not secret)


def _checked(setting: Setting, text: str) -> str:
    """Check a value and return it in the form that is used.

    A URL has no slashes at its end, and an empty value is replaced by the default. Raises ``SettingsInvalid`` with one line,
    which holds no value of a secret.
    """
    name = setting.name
    if not text:
        if setting.required:
            raise SettingsInvalid([f"{name} is not set: {setting.description}"])
        return setting.default
    if re.search(r"[\r\n\0]", text):
        raise SettingsInvalid([f"{name} holds a line break: give it in one line"])
    # The quotes may belong to a secret, so `risks_of` warns about them instead.
    if setting.kind != "secret" and is_quoted(text):
        raise SettingsInvalid([f"{name} has quotes around it, which became a part of the value: write it without"])
    if len(text) < setting.shortest:
        shortest = setting.shortest
        raise SettingsInvalid(
            [f"{name} is too short: use at least {shortest} characters, such as `openssl rand -base64 32` prints"]
        )
    match setting.kind:
        case "url":
            _parts(text, setting.schemes, name, need_host=not text.startswith("unix://"))
            return text.rstrip("/")
        case "number":
            value = int(text) if _NUMBER.fullmatch(text) else -1
            if not (setting.low <= value <= setting.high or (setting.zero and value == 0)):
                zero = f", or 0 {setting.zero}" if setting.zero else ""
                raise SettingsInvalid([f"{name} must be a number from {setting.low} to {setting.high}{zero}"])
        case "choice":
            text = text.lower()
            if text not in setting.choices:
                raise SettingsInvalid([f"{name} must be one of {', '.join(setting.choices)}"])
        case "networks":
            if not all(map(_is_network, _listed(text))):
                raise SettingsInvalid([f"{name} must be addresses or networks, like 10.0.0.0/8, separated by commas"])
        case "hosts":
            if not all(map(_HOST_NAME.fullmatch, _listed(text))):
                raise SettingsInvalid(
                    [f"{name} must be host names without scheme and port, like relay.example.com, separated by commas"]
                )
    return text


def _settings(values: Mapping[str, str], database: DatabaseUrl) -> Settings:
    key, previous = values["LIVEKIT_API_KEY"], values["LIVEKIT_API_SECRET_PREVIOUS"]
    return Settings(
        database=database,
        redis_url=values["REDIS_URL"],
        redis_streams_url=values["REDIS_STREAMS_URL"] or None,
        otlp_endpoint=values["OTEL_EXPORTER_OTLP_ENDPOINT"] or None,
        livekit_url=values["LIVEKIT_URL"],
        livekit_api_url=values["LIVEKIT_API_URL"] or derive_livekit_api_url(values["LIVEKIT_URL"]),
        livekit_api_key=key,
        livekit_api_secret=values["LIVEKIT_API_SECRET"],
        auth_secret=values["AUTH_SECRET"],
        auth_secret_previous=values["AUTH_SECRET_PREVIOUS"] or None,
        relay_api_url=values["RELAY_API_URL"],
        relay_internal_url=values["RELAY_INTERNAL_URL"] or None,
        port=int(values["PORT"]),
        host=values["RELAY_HOST"],
        reconcile_interval_s=int(values["RECONCILE_INTERVAL_SECONDS"]),
        event_retention_days=int(values["EVENT_RETENTION_DAYS"]),
        livekit_previous=KeyPair(values["LIVEKIT_API_KEY_PREVIOUS"] or key, previous) if previous else None,
        worker_port=int(values["WORKER_PORT"]),
        drain_s=int(values["DRAIN_SECONDS"]),
        log_format=values["LOG_FORMAT"],
        log_level=values["LOG_LEVEL"],
        rate_limits=RateLimits(
            tokens_per_key=int(values["RATE_LIMIT_TOKENS_PER_KEY"]),
            tokens_per_project=int(values["RATE_LIMIT_TOKENS_PER_PROJECT"]),
            api_per_key=int(values["RATE_LIMIT_API_PER_KEY"]),
            api_per_project=int(values["RATE_LIMIT_API_PER_PROJECT"]),
            unknown_keys=int(values["RATE_LIMIT_UNKNOWN_KEYS"]),
        ),
        trusted_proxies=_listed(values["TRUSTED_PROXIES"]) or DEFAULT_TRUSTED_PROXIES,
        portal_hosts=_listed(values["PORTAL_HOSTS"]),
        sign_up=next((known for known in SIGN_UPS if known == values["RELAY_SIGNUP"]), "first"),
    )


def inherited_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process: that of this process, with ``overrides``."""
    return {**os.environ, **overrides}


def environment() -> Mapping[str, str]:
    """Return the environment of this process, for lookups of the command line."""
    return os.environ


def default_data_dir() -> Path:
    """Return the data directory: ``RELAY_DATA_DIR``, or ``.relay`` in the working directory."""
    return Path(os.environ.get("RELAY_DATA_DIR", "") or DEFAULT_DATA_DIR)
