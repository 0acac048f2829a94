"""`relay worker --processes 2` runs two workers with a probe each, and stops both cleanly."""

import subprocess
import sys
import time
from pathlib import Path

import httpx

from shared.infra.settings import Settings
from tests.e2e.fleet import environment_of
from tests.ports import two_free_ports


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_each_worker_answers_its_probe(settings: Settings, tmp_path: Path) -> None:
    first, log = two_free_ports(), tmp_path / "log"
    command = [sys.executable, "-m", "services.cli.main", "worker", "--processes", "2"]
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, env=environment_of(settings, WORKER_PORT=str(first)), stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 120
        while not (ready(first) and ready(first + 1)):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        started.terminate()
        assert started.wait(60) == 0
        assert log.read_text().count("worker has stopped") == 2
    finally:
        started.kill()
        started.wait()
