"""Serve `/healthz`, `/readyz` and `/metrics` of the worker, if WORKER_PORT is set.

The server runs in its own threads, so it answers while the fold computes. It reports the result of the last heartbeat.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec

from services.worker.heartbeat import Pulse
from shared.infra import metrics

Answer = tuple[str, str, bytes]
_JSON = "application/json"


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each request in a daemon thread, which does not keep a stopped worker alive."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds that a client may take to send its request

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line for each probe would flood the log."""


def answer(path: str, pulse: Pulse) -> Answer:
    """Return status, content type and body for a GET of ``path``."""
    match path:
        case "/healthz":
            if pulse.failed is not None:
                failed = msgspec.json.encode({"status": "failed", "failed": pulse.failed})
                return "503 Service Unavailable", _JSON, failed
            if pulse.is_stuck():
                return "503 Service Unavailable", _JSON, b'{"status":"stuck"}'
            return "200 OK", _JSON, b'{"status":"ok"}'
        case "/readyz":
            checks = {**pulse.troubles, **({"worker": "stopping"} if pulse.stopping else {})}
            if pulse.is_stuck():
                checks["worker"] = "stuck"
            if pulse.failed is not None:
                checks["worker"] = f"failed: {pulse.failed}"
            body = msgspec.json.encode({"status": "unavailable" if checks else "ok", "checks": checks})
            return "503 Service Unavailable" if checks else "200 OK", _JSON, body
        case "/metrics":
            return "200 OK", metrics.CONTENT_TYPE, metrics.rendered()
    return "404 Not Found", _JSON, b'{"status":"not found"}'


def _application(pulse: Pulse) -> Any:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, content_type, body = "405 Method Not Allowed", _JSON, b'{"status":"only GET is supported"}'
        else:
            status, content_type, body = answer(environ["PATH_INFO"], pulse)
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


@contextmanager
def probe(host: str, port: int, pulse: Pulse) -> Iterator[int]:
    """Serve inside the block. Yields the port (``port`` 0: any free one). Raises ``OSError``."""
    with make_server(host, port, _application(pulse), server_class=_Server, handler_class=_Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="probe", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
