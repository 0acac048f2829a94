"""The HTTP port of the worker for health checks and metrics, over a real socket."""

import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest

from services.worker.health_server import probe
from services.worker.heartbeat import STUCK_S, Pulse, new_pulse
from shared.infra import metrics
from shared.infra.version import VERSION


def fetched(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_readyz_reports_heartbeat_troubles_and_stopping() -> None:
    pulse = new_pulse()
    with probe("127.0.0.1", 0, pulse) as port:
        assert fetched(port, "/healthz") == (200, b'{"status":"ok"}')
        assert fetched(port, "/readyz") == (503, b'{"status":"unavailable","checks":{"worker":"starting"}}')
        pulse.troubles = {"redis": "unreachable (TimeoutError)"}
        status, body = fetched(port, "/readyz")
        assert (status, msgspec.json.decode(body)["checks"]) == (503, pulse.troubles)
        pulse.troubles = {}
        assert fetched(port, "/readyz")[0] == 200
        pulse.stopping = True
        assert fetched(port, "/readyz") == (503, b'{"status":"unavailable","checks":{"worker":"stopping"}}')
        assert fetched(port, "/healthz")[0] == 200


def test_healthz_fails_if_the_event_loop_is_stuck() -> None:
    with probe("127.0.0.1", 0, Pulse(time.monotonic() - STUCK_S - 1, {})) as port:
        assert fetched(port, "/healthz") == (503, b'{"status":"stuck"}')
        assert fetched(port, "/readyz")[0] == 503


def test_probe_serves_metrics_and_refuses_other_requests() -> None:
    metrics.fold_events.labels("folded").inc(0)
    with probe("127.0.0.1", 0, new_pulse()) as port:
        status, body = fetched(port, "/metrics")
        assert status == 200
        assert b'relay_fold_events_total{result="folded"}' in body
        assert b"process_resident_memory_bytes" in body
        assert fetched(port, "/")[0] == 404
        assert fetched(port, "/metrics", "POST")[0] == 405


def test_port_in_use_raises_an_error() -> None:
    with probe("127.0.0.1", 0, new_pulse()) as port, pytest.raises(OSError), probe("127.0.0.1", port, new_pulse()):  # noqa: PT011 - any refusal
        pass


def test_version_equals_that_of_pyproject() -> None:
    pyproject = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["version"] == VERSION
