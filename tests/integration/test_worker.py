"""The worker process and its broker.

A part that ends stops the process. The process does not start without its connections.
"""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dramatiq.middleware import AsyncIO

from services.worker.broker import Resources, create_worker_broker
from shared.infra.clock import DAY_MS
from shared.infra.redis.doorbell import QUEUE, wake_message
from shared.infra.redis.dramatiq_internals import dead_messages
from shared.infra.settings import Settings
from tests.e2e.fleet import environment_of
from tests.ports import free_port
from tests.unit.test_probe import fetched

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, sys
import dramatiq, dramatiq.worker
from services.worker import broker, main, periodic

async def ends(*_):
    raise asyncio.CancelledError

async def stops_the_loop(*_):
    asyncio.get_running_loop().stop()

def fails(*_, **__):
    raise {error}

def stop_when_told(worker, timeout, stop=dramatiq.Worker.stop):
    sys.stdin.readline()
    stop(worker, timeout)

{patch}
sys.exit(main.run())
"""
DEATHS = {
    "sweep": "broker.sweep = ends",
    "periodic ": "periodic.run_if_due = ends",
    "event loop": "broker.sweep = stops_the_loop",
    "worker thread": "dramatiq.worker.WorkerThread.run = lambda thread: None",
    "consumer of fold": "dramatiq.worker.ConsumerThread.run = lambda thread: None",
}


def started(program: str, settings: Settings, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**environment_of(settings), **variables},
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def unhealthy(process: "subprocess.Popen[str]", port: int) -> str:
    """Poll ``/healthz`` until it answers 503. Returns the body."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            status, body = fetched(port, "/healthz")
        except OSError:  # the port is not open yet
            status, body = 0, b""
        if status == 503:
            return body.decode()
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"healthy until the end: {process.communicate()[0]}")


@pytest.mark.parametrize("name", DEATHS)
def test_a_part_that_ends_unexpectedly_is_named_and_stops_the_worker(name: str, settings: Settings) -> None:
    port = free_port()
    patch = f"{DEATHS[name]}\ndramatiq.Worker.stop = stop_when_told"
    with started(PROGRAM.format(patch=patch, error=None), settings, WORKER_PORT=str(port)) as process:
        assert unhealthy(process, port).startswith(f'{{"status":"failed","failed":"{name}')
        status, body = fetched(port, "/readyz")
        assert (status, f'"worker":"failed: {name}' in body.decode()) == (503, True)
        output, _ = process.communicate("go on\n", timeout=60)
    assert process.returncode == 1
    assert "has ended unexpectedly; the worker stops" in output


@pytest.mark.parametrize("error", ["OSError('no route')", "ValueError('a defect')", "AssertionError('wired wrongly')"])
@pytest.mark.parametrize("part", ["create_pool", "event_stream.connect_streams"])
def test_a_worker_without_its_connections_does_not_start(part: str, error: str, settings: Settings) -> None:
    with started(PROGRAM.format(patch=f"broker.{part} = fails", error=error), settings) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "relay worker: cannot " in output
    assert "worker is ready" not in output


def test_broker_middleware_is_ordered_and_dead_messages_are_kept(settings: Settings) -> None:
    resources = Resources(settings)
    broker = create_worker_broker(settings, resources)
    order = [type(part) for part in broker.middleware]
    assert order.index(AsyncIO) < order.index(Resources)
    assert broker.dead_message_ttl >= 30 * DAY_MS


def test_a_dead_message_is_counted(settings: Settings) -> None:
    broker = create_worker_broker(settings, Resources(settings))
    before = dead_messages(broker)
    broker.enqueue(wake_message(3))
    consumer = broker.consume(QUEUE, timeout=100)
    deadline = time.monotonic() + 10
    while (message := next(consumer)) is None:
        assert time.monotonic() < deadline
    consumer.nack(message)
    assert dead_messages(broker) == before + 1
    broker.flush_all()


def test_enqueueing_does_not_block_the_event_loop() -> None:
    """Dramatiq's ``enqueue`` is called in one function, which runs in a thread."""
    callers = []
    for folder in ("shared", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    for call in ast.walk(function):
                        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(
                            (".enqueue", ".send_with_options")
                        ):
                            callers.append(f"{path.relative_to(ROOT)} {function.name}")
    assert callers == ["shared/infra/redis/doorbell.py _enqueue"]
    assert "await asyncio.to_thread(_enqueue, " in (ROOT / "shared/infra/redis/doorbell.py").read_text(encoding="utf-8")
