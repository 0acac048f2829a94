"""A collector receives the trace of a webhook through both processes. By default nothing is traced."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.cli.projects import create_project
from shared.infra.ids import livekit_room
from shared.infra.settings import Settings
from shared.livekit.webhook import WebhookSigner
from tests.e2e.fleet import environment_of
from tests.integration.conftest import key_of
from tests.livekit_bodies import BASE_S, body, participant, room
from tests.ports import free_port

PERSON = "somebody-private"
# Two processes start and import tracing: seconds on an idle machine, half a minute on a busy one.
_WITHIN_S = 120.0


class Collector:
    """Collects the spans as (service, span), and the raw payloads."""

    def __init__(self) -> None:
        self.raw = b""
        self.spans: list[tuple[str, Any]] = []

    def take(self, payload: bytes) -> None:
        self.raw += payload
        for resource in ExportTraceServiceRequest.FromString(payload).resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]

    def named(self, service: str, name: str) -> list[Any]:
        return [span for of, span in self.spans if of == service and span.name == name]


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def process(module: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        started = subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=output, stderr=output)
        try:
            yield
        finally:
            started.terminate()
            started.wait(40)


def until(found: Any, log: Path) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not found():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("short_tmp")
async def test_trace_links_a_webhook_request_to_its_fold(settings: Settings, tmp_path: Path) -> None:
    project = await create_project(settings.database, "acme")
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    with collecting() as (collector, endpoint):
        own = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", "PORT": str(port)}
        environment = environment_of(settings, **own)
        with process("services.api.main", environment, log), process("services.worker.main", environment, log):
            until(lambda: ready(url), log)
            who = participant("PA_1", PERSON, BASE_S * 1000, name=PERSON)
            lobby = room(livekit_room(project.project_id, "live", "lobby"))
            event = body("participant_joined", "EV_1", BASE_S, room=lobby, participant=who)
            signer = WebhookSigner(settings.livekit_api_key, settings.livekit_api_secret)
            headers = {"Authorization": signer.sign(event, now_s=int(time.time()))}
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                answer = await client.post(f"{url}/api/webhooks/livekit", content=event, headers=headers)
                assert answer.status_code == 200
                # Names and secrets in URLs, for existing and missing routes.
                key = key_of(project)
                for path in (
                    f"/v1/rooms/lobby/participants/{PERSON}",
                    f"/{PERSON}",
                    f"/invitations/{PERSON}?next={PERSON}",
                ):
                    await client.get(f"{url}{path}", headers=key)
            until(lambda: collector.named("relay-api", "GET /v1/rooms/{name}/participants/{identity}"), log)
            until(lambda: collector.named("relay-api", "GET /invitations/{secret}"), log)
            until(lambda: collector.named("relay-api", "GET none"), log)
            until(lambda: collector.named("relay-worker", "fold batch"), log)
            until(
                lambda: [span for of, span in collector.spans if of == "relay-api" and span.name == "keep webhooks"],
                log,
            )
        (fold,) = collector.named("relay-worker", "fold batch")
        (keep,) = collector.named("relay-api", "keep webhooks")
        requests = [span for of, span in collector.spans if of == "relay-api" and span.kind == 2]
        (request,) = [span for span in requests if span.name == "POST /api/webhooks/livekit"]
        assert [link.trace_id for link in fold.links] == [request.trace_id]
        assert [link.span_id for link in keep.links] == [request.span_id]
        # The SQL and Redis spans of the fold are its children. No client span is without a parent.
        assert [span for of, span in collector.spans if of == "relay-worker" and span.parent_span_id == fold.span_id]
        assert all(span.parent_span_id or span.kind != 3 for _, span in collector.spans)
        assert PERSON.encode() not in collector.raw


def test_tracing_modules_are_not_imported_by_default() -> None:
    # redis-py imports a part of the API if it is installed. The expensive part is the rest.
    code = (
        "import sys, services.api.main, services.worker.main\n"
        "costly = ('opentelemetry.instrumentation', 'opentelemetry.exporter', 'opentelemetry.sdk.trace')\n"
        "print([name for name in sys.modules if name.startswith(costly)])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
