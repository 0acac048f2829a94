"""The private parts of uvicorn that Relay uses. No other module imports them.

Written for uvicorn 0.54 (pyproject.toml has the upper bound). ``differences`` compares the installed version with the lists
below. If anything differs, ``server.py`` uses uvicorn's own protocol instead. It is slower and lacks the limits of
``http_guard``, but gives the same answers.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

__all__ = ["HIGH_WATER_LIMIT", "STATUS_LINE", "FlowControl", "HttpToolsProtocol", "RequestResponseCycle", "differences"]

WRITTEN_FOR: Final = "0.54"

# Methods that are called or replaced, with their parameters.
_METHODS: Final[Mapping[type, Mapping[str, tuple[str, ...]]]] = {
    HttpToolsProtocol: {
        "__init__": ("self", "config", "server_state", "app_state", "_loop"),
        "connection_made": ("self", "transport"),
        "connection_lost": ("self", "exc"),
        "data_received": ("self", "data"),
        "on_message_begin": ("self",),
        "on_url": ("self", "url"),
        "on_header": ("self", "name", "value"),
        "on_headers_complete": ("self",),
        "on_body": ("self", "body"),
        "on_message_complete": ("self",),
        "on_response_complete": ("self",),
        "shutdown": ("self",),
        "_start_asgi_task": ("self", "cycle", "app"),
        "_should_upgrade": ("self",),
    },
    FlowControl: {
        "drain": ("self",),
        "pause_reading": ("self",),
        "resume_reading": ("self",),
        "resume_writing": ("self",),
    },
    uvicorn.Server: {
        "startup": ("self", "sockets"),
        "on_tick": ("self", "counter"),
        "handle_exit": ("self", "sig", "frame"),
    },
}
# Attributes that are read or set, listed under the method that sets them first.
_ATTRIBUTES: Final[Mapping[Any, tuple[str, ...]]] = {
    HttpToolsProtocol.__init__: (
        "config", "app", "loop", "parser", "connections", "tasks", "server_state", "transport", "flow", "pipeline",
        "scope", "headers", "expect_100_continue", "cycle", "timeout_keep_alive",
    ),
    HttpToolsProtocol.on_message_begin: ("url", "expect_100_continue", "headers", "scope"),
    RequestResponseCycle.__init__: (
        "disconnected", "keep_alive", "body", "more_body", "response_started", "response_complete", "message_event",
    ),
    FlowControl.__init__: ("write_paused", "read_paused"),
    ServerState.__init__: ("total_requests", "connections", "tasks", "default_headers"),
    uvicorn.Server.__init__: ("config", "server_state", "should_exit", "force_exit"),
}  # fmt: skip


def differences() -> list[str]:
    """Return how the installed uvicorn differs from the one this was written for. Empty if it does not."""
    found = []
    if not uvicorn.__version__.startswith(f"{WRITTEN_FOR}."):
        found.append(f"uvicorn is {uvicorn.__version__}, not {WRITTEN_FOR}")
    for owner, methods in _METHODS.items():
        for name, parameters in methods.items():
            method = owner.__dict__.get(name)
            if method is None or tuple(inspect.signature(method).parameters) != parameters:
                found.append(f"{owner.__name__}.{name} does not take {', '.join(parameters)}")
    for setter, names in _ATTRIBUTES.items():
        source = inspect.getsource(setter)
        found += [f"{setter.__qualname__} does not set {name}" for name in names if f"self.{name}" not in source]
    if HIGH_WATER_LIMIT != 65536 or STATUS_LINE.get(200) != b"HTTP/1.1 200 OK\r\n":
        found.append("the constants differ")
    return found
