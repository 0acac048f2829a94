"""A real livekit-server as a child process, on free ports of the loopback interface."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from shared.infra.settings import environment
from tests.e2e.children import end
from tests.ports import free_port

API_KEY = "devkey"
API_SECRET = "a-secret-of-the-end-to-end-tests-alone"
_DRAWS = 3
_READY_WITHIN_S = 90.0
_STOP_WITHIN_S = 60.0


class LiveKit(NamedTuple):
    """A running server, and its process."""

    url: str
    log: Path
    pid: int = 0

    @property
    def api_url(self) -> str:
        return self.url.replace("ws://", "http://", 1)


def binary() -> str:
    """Return the program that LIVEKIT_SERVER names. Without it the test is skipped, or fails in CI."""
    named = environment().get("LIVEKIT_SERVER", "")
    if named and os.access(named, os.X_OK):
        return named
    reason = f"LIVEKIT_SERVER={named} is no program" if named else "LIVEKIT_SERVER names no livekit-server binary"
    unavailable(reason)
    raise AssertionError("unreachable: unavailable raises")


def unavailable(reason: str) -> None:
    """Skip the calling test, or fail it with RELAY_REQUIRE_LIVEKIT=1 as in CI."""
    if environment().get("RELAY_REQUIRE_LIVEKIT") == "1":
        pytest.fail(f"{reason}, and RELAY_REQUIRE_LIVEKIT=1", pytrace=False)
    pytest.skip(reason)


def _config(port: int, webhook_url: str, redis_address: str) -> str:
    """Return the configuration as JSON, which is valid YAML."""
    redis = {"redis": {"address": redis_address}} if redis_address else {}
    return json.dumps(
        {
            **redis,
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "rtc": {
                "tcp_port": free_port(),
                "udp_port": free_port(socket.SOCK_DGRAM),
                "node_ip": "127.0.0.1",
                "use_external_ip": False,
                "enable_loopback_candidate": True,
            },
            "keys": {API_KEY: API_SECRET},
            # Rooms finish soon after the last participant, so that the test sees room_finished.
            "room": {"empty_timeout": 10, "departure_timeout": 2},
            "webhook": {"api_key": API_KEY, "urls": [webhook_url]},
            "logging": {"level": "info"},
        }
    )


@contextmanager
def livekit_server(
    program: str, directory: Path, webhook_url: str, *, port: int | None = None, redis_address: str = ""
) -> Iterator[LiveKit]:
    """Run the server until the block ends, with its state in memory or in Redis.

    It must answer within 90 s.
    """
    config, log = directory / "livekit.yaml", directory / "livekit.log"
    for _ in range(_DRAWS):
        drawn = port or free_port()
        config.write_text(_config(drawn, webhook_url, redis_address))
        with (
            log.open("wb") as output,
            subprocess.Popen([program, "--config", str(config)], stdout=output, stderr=output) as process,
        ):
            try:
                if _is_ready(process, f"http://127.0.0.1:{drawn}"):
                    yield LiveKit(f"ws://127.0.0.1:{drawn}", log, process.pid)
                    return
            finally:
                end(process, _STOP_WITHIN_S)
        # LiveKit takes port numbers, not open sockets. Another process may take a port before LiveKit starts.
        if b"address already in use" not in log.read_bytes():
            break
    pytest.fail(f"livekit-server is not ready: {log.read_text(errors='replace')[-3000:]}", pytrace=False)


def _is_ready(process: "subprocess.Popen[bytes]", url: str) -> bool:
    """Wait until the server answers. False if it ends or takes too long."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False, timeout=2).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    return False
