"""Every setting, once: what it is called, what it may be and what it defaults to.

``load_settings`` reads the environment by this table. The tests hold `.env.example`, the table in docs/self-hosting.md and
`docker-compose.yml` against it.
"""

from typing import Final, Literal, NamedTuple

from shared.models.accounts import SIGN_UPS

Kind = Literal["text", "secret", "database", "url", "number", "choice", "networks", "hosts"]
LARGEST_RATE: Final = 100_000_000
LOG_FORMATS: Final = ("auto", "json", "text")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class Setting(NamedTuple):
    """``meaning``: for the message about a missing one. ``default``: as it would stand in the environment; empty is none.
    ``secret``: no message repeats the value. ``zero``: what the number 0 stands for where it is below ``low``."""

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    default: str = ""
    secret: bool = False
    schemes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    zero: str = ""
    shortest: int = 0


def _rate(name: str, default: int, meaning: str) -> Setting:
    return Setting(name, "number", meaning, default=str(default), low=1, high=LARGEST_RATE, zero="for no limit")


_LONG_RANDOM = "a long random value, such as the output of `openssl rand -base64 32`"
SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("DATABASE_URL", "database", "the URL of the Postgres database", required=True, secret=True),
    Setting("REDIS_URL", "url", "the URL of Redis, rediss:// with TLS", required=True, secret=True,
            schemes=("redis", "rediss", "unix")),
    Setting("REDIS_STREAMS_URL", "url", "a node of the Redis Cluster of the event streams", secret=True,
            schemes=("redis", "rediss")),
    Setting("LIVEKIT_URL", "url", "the wss:// URL of LiveKit, given to clients", required=True, schemes=("wss", "ws")),
    Setting("OTEL_EXPORTER_OTLP_ENDPOINT", "url", "where traces go, by OTLP over HTTP", schemes=("http", "https")),
    Setting("LIVEKIT_API_URL", "url", "where Relay itself reaches LiveKit", schemes=("https", "http")),
    Setting("LIVEKIT_API_KEY", "text", "the key of the pair in LiveKit's own configuration", required=True),
    Setting("LIVEKIT_API_SECRET", "secret", "the secret that belongs to LIVEKIT_API_KEY", required=True, secret=True),
    Setting("LIVEKIT_API_KEY_PREVIOUS", "text", "the key of the pair before"),
    Setting("LIVEKIT_API_SECRET_PREVIOUS", "secret", "the secret of the pair before", secret=True),
    Setting("AUTH_SECRET", "secret", _LONG_RANDOM, required=True, secret=True, shortest=16),
    Setting("AUTH_SECRET_PREVIOUS", "secret", "the AUTH_SECRET before", secret=True, shortest=16),
    Setting("RELAY_API_URL", "url", "the public URL of this instance", required=True, schemes=("https", "http")),
    Setting("RELAY_INTERNAL_URL", "url", "where Relay's own commands reach the API", schemes=("http", "https")),
    Setting("PORT", "number", "the port of the API", default="3000", low=1, high=65535),
    # Below a few seconds a pass would ask LiveKit more often than its own listing is brought up to date.
    Setting("RECONCILE_INTERVAL_SECONDS", "number", "how often LiveKit is asked who is there", default="30", low=2, high=3600,
            zero="to never reconcile"),
    Setting("EVENT_RETENTION_DAYS", "number", "how long raw events are kept", default="90", low=2, high=36500),
    Setting("WORKER_PORT", "number", "the port of the worker's probe", default="0", low=1, high=65535,
            zero="to listen on nothing"),
    Setting("DRAIN_SECONDS", "number", "how long the API answers after SIGTERM", default="0", low=0, high=60),
    Setting("LOG_FORMAT", "choice", "how logs are written", default="auto", choices=LOG_FORMATS),
    Setting("LOG_LEVEL", "choice", "what is logged", default="info", choices=LOG_LEVELS),
    _rate("RATE_LIMIT_TOKENS_PER_KEY", 300_000, "tokens a minute and key"),
    _rate("RATE_LIMIT_TOKENS_PER_PROJECT", 600_000, "tokens a minute and project"),
    _rate("RATE_LIMIT_API_PER_KEY", 3_000, "other requests a minute and key"),
    _rate("RATE_LIMIT_API_PER_PROJECT", 6_000, "other requests a minute and project"),
    _rate("RATE_LIMIT_UNKNOWN_KEYS", 60, "unknown keys a minute and client address"),
    Setting("TRUSTED_PROXIES", "networks", "reverse proxies whose headers are believed", default="127.0.0.1,::1"),
    Setting("RELAY_SIGNUP", "choice", "who may make an account", default="first", choices=SIGN_UPS),
    Setting("PORTAL_HOSTS", "hosts", "further host names of the portal"),
    Setting("RELAY_HOST", "text", "the address to listen on", default="127.0.0.1"),
)  # fmt: skip
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
# Blanks that no setting begins or ends with: `str.strip` leaves a byte order mark and zero-width spaces.
_AROUND = "\ufeff\u200b\u200c\u200d\u2060\0"
QUOTES: Final = ('"', "'", "`", "\u201c\u201d", "\u2018\u2019")


def cleaned(text: str) -> str:
    """A value without what env files, shells and mounted secrets add around it: blanks, line ends, a byte order mark."""
    before = None
    while before != text:
        before, text = text, text.strip().strip(_AROUND)
    return text


def is_quoted(text: str) -> bool:
    """Whether a value stands in quotes: env files of `docker run` and Kubernetes keep them as a part of it."""
    return len(text) > 1 and any(text[0] == quote[0] and text[-1] == quote[-1] for quote in QUOTES)
