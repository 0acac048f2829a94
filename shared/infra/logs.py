"""Logs: one JSON object a line in production, readable lines in a terminal, and the id of the request in each of them.

Modules log as ever (``logging.getLogger("relay.api").warning("…", …)``), or with names and values through
``structlog.get_logger("relay.api").warning("key_lookup_failed", cause="timeout")``; both come out the same way. At info level
and above nothing may name a person: no identity, no name, no metadata. Keys, tokens and passwords are blotted out wherever
they turn up, as the last net and not as a permission.
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

# Set for the time of a request; plain rather than structlog's own dictionary, because the hot paths set it too.
request_id: ContextVar[str | None] = ContextVar("relay_request_id", default=None)

_SECRETS = re.compile(
    r"\b([sp]k_(?:live|test)_)[A-Za-z0-9]{8,}"  # API keys
    r"|\b(eyJ[A-Za-z0-9_-]{8})[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # JWTs
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)"  # passwords in URLs
)


def without_secrets(text: str) -> str:
    """``text`` with the secret part of API keys, JWTs and passwords in URLs replaced by ``***``."""
    return _SECRETS.sub(lambda found: "".join(group or "" for group in found.groups()) + "***", text)


def choose_format(setting: str, stream: TextIO) -> LogFormat:
    """``auto``: readable in a terminal, JSON everywhere else."""
    if setting == "json" or (setting == "auto" and not stream.isatty()):
        return "json"
    return "text"


def set_up_logging(setting: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Sends everything that is logged in this process to ``stream`` (stderr). Called once, by a service's ``run``."""
    stream = stream or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,
        _blot_secrets,
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
    # They tell of every message and every connection at info.
    for name in ("dramatiq", "uvicorn", "httpx", "httpcore", "yoyo", "opentelemetry"):
        chatty = logging.getLogger(name)
        chatty.setLevel(max(logging.WARNING, logging.getLogger().level))
        # Uvicorn's own configuration, where something applied it, would keep its lines to itself.
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


def _blot_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_secrets(value)
    return event
