"""The steps: what docs/self-hosting.md and docs/operations.md describe, and two crashes."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from shared.livekit.webhook import WebhookSigner
from tests.containers.compose import compose, containers, documented, kill, relay, shell, until
from tests.containers.engine import run
from tests.containers.standins import ROOT

LARGEST_EVENT = 1_000_000
URL = "http://127.0.0.1:3000"
WITH_HEALTH_CHECK = ("postgres", "redis", "api", "api", "worker", "worker")
_SLOWEST_CHECK_MS = 2000.0
# Checks the image in which it runs: no unwanted file, and no source that every start would compile again.
_CONTENTS = """
import importlib.util, pathlib, sys, sysconfig
app, packages = pathlib.Path("/app"), pathlib.Path(sysconfig.get_path("purelib"))
unwanted = [name for name in sys.argv[1:] if (app / name).exists() or (packages / name).exists()]
library = pathlib.Path(sysconfig.get_path("stdlib"))
sources = [*app.rglob("*.py"), *library.glob("*.py"), *library.glob("[a-z]*/__init__.py")]
names = ("-packages", "ensurepip", "idlelib", "lib2to3", "/test/", "_bootlocale")
bare = [str(source) for source in sources if not pathlib.Path(importlib.util.cache_from_source(str(source))).exists()
        and not any(name in str(source) for name in names)]
assert len(sources) > 100, sources
assert not unwanted and not bare, (unwanted, bare[:10])
"""
_UNWANTED = {
    "relay-api": ["services/worker", "tests", ".git", "pip"],
    "relay-worker": ["services/api", "services/cli", "tests", ".git", "pip", "litestar", "uvicorn", "jinja2", "httpx"],
}


class Scenario:
    """The steps. They share the key of a project and the number of minutes sent for it."""

    def __init__(self, scratch: Path, livekit: bool) -> None:
        self._scratch, self._livekit = scratch, livekit
        self._profile = ["--profile", "livekit"] if livekit else []
        self._key, self._expected = "", 0.0

    def build(self) -> None:
        compose("build")
        for image, unwanted in _UNWANTED.items():
            run("docker", "run", "--rm", "--network", "none", image, "python", "-c", _CONTENTS, *unwanted)
            assert run("docker", "run", "--rm", "--network", "none", image, "id", "-u").strip() == "10001"
            print(
                f"    {image}: {int(run('docker', 'image', 'inspect', '-f', '{{.Size}}', image)) / 2**20:.0f} MiB with its base"
            )
        assert "doctor" in run("docker", "run", "--rm", "--network", "none", "relay-api", "relay", "--help")

    def start(self) -> None:
        compose(*self._profile, "up", "--detach", "--no-build", "--scale", "api=2", "--scale", "worker=2")
        until("six healthy containers", lambda: _healthy() == sorted(WITH_HEALTH_CHECK))
        assert until("readiness", lambda: httpx.get(f"{URL}/readyz", timeout=5).status_code == 200)
        assert {address for container in containers() for address in container.ports} == {"127.0.0.1"}

    def proxy(self) -> None:
        """The proxy hides internal paths and forwards a webhook of a megabyte."""
        for path in (
            "/metrics",
            "/internal/gate",
            "/INTERNAL/gate",
            "//internal/gate",
            "/%69nternal/gate",
            "/x/../metrics",
        ):
            assert httpx.get(f"{URL}{path}", follow_redirects=False).status_code == 404, path
        event = (
            b'{"event":"room_started","room":{"name":"elsewhere"},"id":"EV_1","createdAt":"1"}' + b" " * LARGEST_EVENT
        )
        headers = {"Authorization": WebhookSigner(*_demo_key_pair()).sign(event, now_s=int(time.time()))}
        answer = httpx.post(f"{URL}/api/webhooks/livekit", content=event, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text

    def project(self) -> None:
        created = json.loads(relay("projects", "create", "CI", "--json"))
        self._key = next(key["key"] for key in created["keys"] if (key["mode"], key["type"]) == ("live", "secret"))
        token = self._client().post("/v1/tokens", json={"room": "lobby", "identity": "ada"})
        assert token.status_code == 200, token.text

    def doctor(self) -> None:
        """The doctor finds no error in the demo. It reads LiveKit's configuration from a file of mode 0600."""
        rendered = compose(*self._profile, "config")
        config = self._scratch / "livekit.yaml"
        config.touch(0o600)
        config.write_text(_livekit_config(rendered) if self._livekit else "keys: {}\n", encoding="utf-8")
        # The exit code says whether the doctor found an error. The test reads the report in any case.
        script = "docker compose run --rm -T migrate relay doctor --json --livekit-config - <livekit.yaml >report.json || true"
        until("a worker's heartbeat", lambda: _report(script, self._scratch).get("worker") == "ok", 30)
        levels = _report(script, self._scratch)
        expected_errors = set() if self._livekit else {"livekit", "livekit.yaml"}
        assert {check for check, level in levels.items() if level == "error"} <= expected_errors, levels
        assert (levels["api"], levels["webhook address"]) == ("ok", "ok"), levels

    def crashes(self) -> None:
        """An API and Redis are killed under load. Every webhook is acknowledged in the end and counts once."""
        started = [container.restarts for container in containers("api", "redis")]
        command = [
            "simulate",
            "--mode",
            "live",
            "--rate",
            "60",
            "--events",
            "600",
            "--rooms",
            "6",
            "--seed",
            "11",
            "--json",
        ]
        output = self._scratch / "simulated.json"
        words = ["docker-compose", "--project-directory", str(ROOT), "--env-file", str(ROOT / "deploy/demo.env"), "run", "--rm",
                 "-T", "migrate", "relay", *command]  # fmt: skip
        with (
            output.open("wb") as file,
            subprocess.Popen(words, stdout=file, stderr=subprocess.PIPE, cwd=ROOT) as simulation,
        ):
            began = _acknowledged()
            until("webhooks", lambda: _acknowledged() > began + 50)
            kill("api")
            until("webhooks after the death of an api", lambda: _acknowledged() > began + 150)
            kill("redis")
            _, errors = simulation.communicate(timeout=120)
            assert simulation.returncode == 0, errors.decode()
        simulated = json.loads(output.read_text(encoding="utf-8"))
        assert simulated["complete"], simulated["sent"]
        self._expected = sum(day["participantMs"] for day in simulated["expected"]) / 60_000
        assert sum(container.restarts for container in containers("api", "redis")) == sum(started) + 2
        self.counted()

    def counted(self) -> None:
        """Usage equals what was sent, to the millisecond, and `relay usage verify` passes."""

        def matches() -> bool:
            with suppress(httpx.HTTPError):
                totals = self._client().get("/v1/usage", params={"period": "7d"}).json()["totals"]
                return bool(abs(totals["participantMinutes"] - self._expected) < 1 / 60_000)
            return False

        until(f"{self._expected} minutes", matches)
        relay("usage", "verify")

    def health_checks(self) -> None:
        """Wait for two health checks of every container, and limit their duration."""
        until("two checks of each", lambda: all(len(c.check_ms) >= 2 for c in containers("api", "worker")))
        for service in ("api", "worker", "postgres", "redis"):
            taken = sorted(ms for container in containers(service) for ms in container.check_ms)
            print(f"    health check of {service}: {taken[len(taken) // 2]:.0f} ms (median, with the engine's share)")
            assert taken[len(taken) // 2] < _SLOWEST_CHECK_MS

    def stop_and_start(self) -> None:
        started = time.monotonic()
        compose(*self._profile, "stop")
        print(f"    all stopped in {time.monotonic() - started:.1f} s")
        wrong = [(c.name, c.status, c.exit_code) for c in containers() if c.service != "livekit" and c.exit_code]
        assert not wrong, wrong
        compose(*self._profile, "down")
        assert not containers()
        compose("up", "--detach", "--no-build")
        self.counted()

    def backup_and_restore(self) -> None:
        """Run the commands of docs/operations.md, with an empty database in between."""
        backup, restore = documented("operations.md", "Backup and restore")
        shell(backup, self._scratch)
        compose("down", "--volumes")
        shell(restore, self._scratch)
        self.counted()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=URL, headers={"Authorization": f"Bearer {self._key}"}, timeout=10, trust_env=False)


def _demo_key_pair() -> tuple[str, str]:
    lines = (ROOT / "deploy/demo.env").read_text(encoding="utf-8").splitlines()
    demo = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return demo["LIVEKIT_API_KEY"], demo["LIVEKIT_API_SECRET"]


def _healthy() -> list[str]:
    return sorted(container.service for container in containers() if container.health == "healthy")


def _acknowledged() -> int:
    """Return the number of stored events."""
    table = "SELECT count(*) FROM event"
    return int(
        compose("exec", "-T", "postgres", "psql", "--username=relay", "--no-align", "--tuples-only", "--command", table)
    )


def _report(script: str, directory: Path) -> dict[str, str]:
    """Run the doctor and return the worst level of each check."""
    shell(script, directory)
    order = ("ok", "note", "warning", "error")
    worst: dict[str, str] = {}
    for finding in json.loads((directory / "report.json").read_text(encoding="utf-8"))["findings"]:
        worst[finding["check"]] = max(worst.get(finding["check"], "ok"), finding["level"], key=order.index)
    return worst


def _livekit_config(rendered: str) -> str:
    services: dict[str, Any] = yaml.safe_load(rendered)["services"]
    return str(services["livekit"]["environment"]["LIVEKIT_CONFIG"])


def steps(scenario: Scenario) -> list[tuple[str, Callable[[], None]]]:
    """Return the steps after the build, in their order. Only the build needs network access."""
    return [
        ("up", scenario.start),
        ("proxy", scenario.proxy),
        ("project and token", scenario.project),
        ("doctor", scenario.doctor),
        ("an api and Redis are killed", scenario.crashes),
        ("health checks", scenario.health_checks),
        ("stop, down, up", scenario.stop_and_start),
        ("backup and restore", scenario.backup_and_restore),
    ]
