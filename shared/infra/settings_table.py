"""The table of all settings: name, kind, description, default and allowed values.

``load_settings`` reads the environment by this table. Tests compare `.env.example`, the table in docs/self-hosting.md and
`docker-compose.yml` with it.
"""

from typing import Final, Literal, NamedTuple

from shared.models.accounts import SIGN_UPS

Kind = Literal["text", "secret", "database", "url", "number", "choice", "networks", "hosts"]
LARGEST_RATE: Final = 100_000_000
LOG_FORMATS: Final = ("auto", "json", "text")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class Setting(NamedTuple):
    """One setting.

    ``description``: also part of the message about a missing setting. ``default``: as text in the environment; empty means
    none. ``secret``: no message repeats the value. ``low`` and ``high``: the bounds of a number. ``zero``: what the number 0
    means, where it is allowed below ``low``. ``shortest``: the least number of characters.
    """

    name: str
    kind: Kind
    description: str
    required: bool = False
    default: str = ""
    secret: bool = False
    schemes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    zero: str = ""
    shortest: int = 0


def _rate(name: str, default: int, description: str) -> Setting:
    return Setting(name, "number", description, default=str(default), low=1, high=LARGEST_RATE, zero="for no limit")


_LONG_RANDOM = "a long random value, such as the output of `openssl rand -base64 32`"
SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("DATABASE_URL", "database", "the URL of the Postgres database", required=True, secret=True),
    Setting("REDIS_URL", "url", "the URL of Redis (rediss:// for TLS)", required=True, secret=True,
            schemes=("redis", "rediss", "unix")),
    Setting("REDIS_STREAMS_URL", "url", "the URL of any node of the Redis Cluster that holds the event streams", secret=True,
            schemes=("redis", "rediss")),
    Setting("LIVEKIT_URL", "url", "the wss:// URL at which clients reach LiveKit", required=True, schemes=("wss", "ws")),
    Setting("OTEL_EXPORTER_OTLP_ENDPOINT", "url", "the collector that receives traces by OTLP over HTTP",
            schemes=("http", "https")),
    Setting("LIVEKIT_API_URL", "url", "the URL at which Relay itself reaches LiveKit", schemes=("https", "http")),
    Setting("LIVEKIT_API_KEY", "text", "the API key in LiveKit's own configuration", required=True),
    Setting("LIVEKIT_API_SECRET", "secret", "the secret that belongs to LIVEKIT_API_KEY", required=True, secret=True),
    Setting("LIVEKIT_API_KEY_PREVIOUS", "text", "the previous LIVEKIT_API_KEY, while the pair is being replaced"),
    Setting("LIVEKIT_API_SECRET_PREVIOUS", "secret", "the previous LIVEKIT_API_SECRET, while the pair is being replaced",
            secret=True),
    Setting("AUTH_SECRET", "secret", _LONG_RANDOM, required=True, secret=True, shortest=16),
    Setting("AUTH_SECRET_PREVIOUS", "secret", "the previous AUTH_SECRET, while it is being replaced", secret=True, shortest=16),
    Setting("RELAY_API_URL", "url", "the public URL of this instance", required=True, schemes=("https", "http")),
    Setting("RELAY_INTERNAL_URL", "url", "the URL at which Relay's own commands reach the API", schemes=("http", "https")),
    Setting("PORT", "number", "the port of the API", default="3000", low=1, high=65535),
    # LiveKit updates its own listing every few seconds, so a shorter interval finds nothing new.
    Setting("RECONCILE_INTERVAL_SECONDS", "number", "the seconds between two reconciliations with LiveKit", default="30",
            low=2, high=3600, zero="to never reconcile"),
    Setting("EVENT_RETENTION_DAYS", "number", "the days for which raw events are kept", default="90", low=2, high=36500),
    Setting("WORKER_PORT", "number", "the port of the worker's health checks and metrics", default="0", low=1, high=65535,
            zero="to listen on nothing"),
    Setting("DRAIN_SECONDS", "number", "the seconds for which the API still answers after SIGTERM", default="0", low=0,
            high=60),
    Setting("LOG_FORMAT", "choice", "the format of the logs", default="auto", choices=LOG_FORMATS),
    Setting("LOG_LEVEL", "choice", "the least level that is logged", default="info", choices=LOG_LEVELS),
    _rate("RATE_LIMIT_TOKENS_PER_KEY", 300_000, "the tokens a minute for each key"),
    _rate("RATE_LIMIT_TOKENS_PER_PROJECT", 600_000, "the tokens a minute for each project"),
    _rate("RATE_LIMIT_API_PER_KEY", 3_000, "the other requests a minute for each key"),
    _rate("RATE_LIMIT_API_PER_PROJECT", 6_000, "the other requests a minute for each project"),
    _rate("RATE_LIMIT_UNKNOWN_KEYS", 60, "the unknown keys a minute for each client address"),
    Setting("TRUSTED_PROXIES", "networks", "the reverse proxies whose X-Forwarded-For is trusted", default="127.0.0.1,::1"),
    Setting("RELAY_SIGNUP", "choice", "who may create an account without an invitation", default="first", choices=SIGN_UPS),
    Setting("PORTAL_HOSTS", "hosts", "the other host names at which the portal is served"),
    Setting("RELAY_HOST", "text", "the address that the API and the worker listen on", default="127.0.0.1"),
)  # fmt: skip
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
# Characters that no setting begins or ends with, and that `str.strip` does not remove.
_AROUND = "\ufeff\u200b\u200c\u200d\u2060\0"
QUOTES: Final = ('"', "'", "`", "\u201c\u201d", "\u2018\u2019")


def cleaned(text: str) -> str:
    """Remove blanks, line ends and a byte order mark around a value.

    Env files, shells and mounted secrets add these.
    """
    before = None
    while before != text:
        before, text = text, text.strip().strip(_AROUND)
    return text


def is_quoted(text: str) -> bool:
    """Return whether a value is in quotes.

    The env files of `docker run` and Kubernetes keep them as a part of it.
    """
    return len(text) > 1 and any(text[0] == quote[0] and text[-1] == quote[-1] for quote in QUOTES)
