"""The demo of the compose file: its commands, and the state of its containers."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.containers.engine import run
from tests.containers.standins import ROOT

PROJECT = "relay-ci"
_FENCE = re.compile(r"^```sh[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
Answer = TypeVar("Answer")


class Container(NamedTuple):
    """One container of the demo.

    ``health`` is empty if the image has no health check. ``check_ms`` holds the durations of the last checks.
    """

    name: str
    service: str
    pid: int
    status: str
    exit_code: int
    restarts: int
    health: str
    check_ms: list[float]
    ports: list[str]


def compose(*words: str, **options: object) -> str:
    """Run `docker compose` for the demo and return its output."""
    return run("docker-compose", "--project-directory", ROOT, "--env-file", ROOT / "deploy/demo.env", "--file",
               ROOT / "docker-compose.yml", *words, **options)  # fmt: skip


def relay(*words: str, **options: object) -> str:
    """Run the command line in a new container and return its output."""
    return compose("run", "--rm", "-T", "migrate", "relay", *words, **options)


def shell(script: str, directory: Path) -> None:
    """Run lines of the documentation in ``directory``. `docker compose` means the demo there."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    client = run("sh", "-c", "command -v docker").strip()
    (programs / "docker").write_text(
        f'#!/bin/sh\n[ "$1" = compose ] || exec {client} "$@"\nshift\nexec docker-compose --project-directory {ROOT}'
        f' --env-file {ROOT}/deploy/demo.env --file {ROOT}/docker-compose.yml "$@"\n',
        encoding="utf-8",
    )
    (programs / "docker").chmod(0o755)
    run(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        cwd=directory,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )


def documented(page: str, heading: str) -> list[str]:
    """Return the shell blocks below a heading of a page in docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/{page} has no section {heading}"
    return _FENCE.findall(section[1])


def containers(*services: str) -> list[Container]:
    """Return the containers of these services, or of all, including stopped ones."""
    ids = run("docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
    found = [_container(description) for description in json.loads(run("docker", "inspect", *ids))] if ids else []
    return [container for container in found if not services or container.service in services]


def _container(description: dict[str, Any]) -> Container:
    state = description["State"]
    health = state.get("Health", {})
    published = (description["NetworkSettings"]["Ports"] or {}).values()
    return Container(
        description["Name"].lstrip("/"),
        description["Config"]["Labels"]["com.docker.compose.service"],
        state["Pid"],
        state["Status"],
        state["ExitCode"],
        description["RestartCount"],
        health.get("Status", ""),
        [(_seconds(check["End"]) - _seconds(check["Start"])) * 1000 for check in health.get("Log", [])],
        [binding["HostIp"] for bindings in published for binding in bindings or []],
    )


def _seconds(stamp: str) -> float:
    """Return the seconds since the full hour of a time such as 2026-01-01T10:00:00.123456789Z.

    That is enough because a check takes less than an hour.
    """
    _, minutes, seconds = re.split(r"[T:Z+]", stamp)[1:4]
    return int(minutes) * 60 + float(seconds)


def kill(service: str) -> Container:
    """Kill the first process of a running container of this service, as the OOM killer does."""
    victim = next(container for container in containers(service) if container.status == "running")
    os.kill(victim.pid, signal.SIGKILL)
    return victim


def until(what: str, condition: Callable[[], Answer], within_s: float = 60.0) -> Answer:
    """Poll and return the first true answer. A command that fails counts as not yet true."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if answer := condition():
                return answer
        except (subprocess.CalledProcessError, OSError, AssertionError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {within_s:g} s") from error
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(0.2)
