"""Set up logging: JSON in production, readable lines in a terminal, each with the request id.

Modules log through ``logging.getLogger("relay.api").warning("…", …)``, or with names and values through
``structlog.get_logger("relay.api").warning("key_lookup_failed", cause="timeout")``. Both have the same output. No line at info
level or above may name a person: no identity, no name, no metadata. Keys, tokens and passwords are removed wherever they
appear. That is a last safeguard: code must not log them.
"""

import logging
import logging.config
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Literal, TextIO

import structlog

from shared.infra.log_flood import FloodFilter

LogFormat = Literal["json", "text"]

# Set during a request. A plain variable, because structlog's own dictionary would be slow on the hot paths.
request_id: ContextVar[str | None] = ContextVar("relay_request_id", default=None)

_SECRETS = re.compile(
    r"\b([sp]k_(?:live|test)_)[A-Za-z0-9]{8,}"  # API keys
    r"|\b(eyJ[A-Za-z0-9_-]{8})[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # JWTs
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)"  # passwords in URLs
)


def without_secrets(text: str) -> str:
    """Replace the secret part of API keys, JWTs and passwords in URLs by ``***``."""
    return _SECRETS.sub(lambda found: "".join(group or "" for group in found.groups()) + "***", text)


def choose_format(setting: str, stream: TextIO) -> LogFormat:
    """Choose the format. ``auto`` means text in a terminal and JSON everywhere else."""
    if setting == "json" or (setting == "auto" and not stream.isatty()):
        return "json"
    return "text"


def set_up_logging(setting: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream`` (default: stderr). Called once, by a service's ``run``."""
    stream = stream or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,
        _remove_secrets,
    ]
    last: list[Any]
    if choose_format(setting, stream) == "json":
        last = [structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)]
    else:
        last = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(FloodFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At info, these log every message and every connection.
    for name in ("dramatiq", "uvicorn", "httpx", "httpcore", "yoyo", "opentelemetry"):
        chatty = logging.getLogger(name)
        chatty.setLevel(max(logging.WARNING, logging.getLogger().level))
        # Uvicorn's own configuration, if something applied it, does not pass its lines on.
        chatty.handlers.clear()
        chatty.propagate = True
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _add_request_id(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    current = request_id.get()
    if current is not None:
        event.setdefault("request_id", current)
    return event


def _remove_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_secrets(value)
    return event
