"""The worker's own small HTTP port: `/healthz`, `/readyz` and `/metrics`. Off unless WORKER_PORT is set.

It runs in threads of its own, so it answers while the fold computes; what it tells was found out by the heartbeat.
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
    """A thread a request; they must not keep a stopped worker alive."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds a client may take to say what it wants

    def log_message(self, format: str, *args: Any) -> None:
        """A line on stderr a probe would drown everything else."""


def answer(path: str, pulse: Pulse) -> Answer:
    """(status, content type, body) of a GET."""
    match path:
        case "/healthz":
            if pulse.is_stuck():
                return "503 Service Unavailable", _JSON, b'{"status":"stuck"}'
            return "200 OK", _JSON, b'{"status":"ok"}'
        case "/readyz":
            checks = {**pulse.troubles, **({"worker": "stopping"} if pulse.stopping else {})}
            if pulse.is_stuck():
                checks["worker"] = "stuck"
            body = msgspec.json.encode({"status": "unavailable" if checks else "ok", "checks": checks})
            return "503 Service Unavailable" if checks else "200 OK", _JSON, body
        case "/metrics":
            return "200 OK", metrics.CONTENT_TYPE, metrics.rendered()
    return "404 Not Found", _JSON, b'{"status":"not found"}'


def _application(pulse: Pulse) -> Any:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, content_type, body = "405 Method Not Allowed", _JSON, b'{"status":"only GET is known here"}'
        else:
            status, content_type, body = answer(environ["PATH_INFO"], pulse)
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


@contextmanager
def probe(host: str, port: int, pulse: Pulse) -> Iterator[int]:
    """Serves until left; yields the port that was taken (``port`` 0: any free one). Raises ``OSError``."""
    with make_server(host, port, _application(pulse), server_class=_Server, handler_class=_Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="probe", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
