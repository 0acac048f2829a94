"""The configuration of compose's LiveKit starts the real server, and the doctor finds no fault in it.

The configuration is filled in from the demo's settings.
"""

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from services.cli.doctor.livekit_config import check_livekit_config
from shared.infra.settings import load_settings
from tests.e2e.livekit_server import binary
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def demo() -> dict[str, str]:
    lines = (ROOT / "deploy/demo.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled_in(text: str, values: dict[str, str]) -> str:
    """Compose's interpolation, in the forms that the file uses."""
    return re.sub(r"\$\{([A-Z_]+)(?::-([^}]*)|:\?[^}]*)?\}", lambda m: values.get(m[1]) or m[2] or "", text)


def configuration() -> dict[str, Any]:
    compose = yaml.safe_load(filled_in((ROOT / "docker-compose.yml").read_text(encoding="utf-8"), demo()))
    config: dict[str, Any] = yaml.safe_load(compose["services"]["livekit"]["environment"]["LIVEKIT_CONFIG"])
    return config


def test_doctor_finds_no_error_in_the_compose_livekit_config(tmp_path: Path) -> None:
    stores = {"DATABASE_URL": "postgresql://relay@postgres/relay", "REDIS_URL": "redis://redis:6379/0"}
    path = tmp_path / "livekit.yaml"
    path.write_text(yaml.safe_dump(configuration()), encoding="utf-8")
    findings = check_livekit_config(path, load_settings({**demo(), **stores}))
    # LiveKit reaches Relay by the proxy's name, people by localhost.
    assert [(finding.level, "by RELAY_API_URL it would be" in finding.fact) for finding in findings] == [("note", True)]


def test_livekit_starts_with_the_compose_config(tmp_path: Path) -> None:
    program, config, port = binary(), configuration(), free_port()
    config["port"], config["bind_addresses"] = port, ["127.0.0.1"]
    config["rtc"]["tcp_port"], config["rtc"]["udp_port"] = free_port(), free_port(socket.SOCK_DGRAM)
    log = tmp_path / "log"
    environment = {"PATH": os.defpath, "LIVEKIT_CONFIG": yaml.safe_dump(config)}
    with (
        log.open("wb") as output,
        subprocess.Popen([program], env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + 90
            while not answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
