"""The `relay` command as users run it."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from services.cli.main import main
from shared.infra.ids import parse_key
from shared.infra.settings import Settings, inherited_environment


def relay(settings: Settings, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a thread of this process. A new process takes a second to load everything.

    An exception that a process would print as a traceback fails the test.
    """
    variables = inherited_environment({"DATABASE_URL": settings.database.dsn, **environment})
    output, errors = StringIO(), StringIO()
    with (
        patch.dict(os.environ, variables),
        redirect_stdout(output),
        redirect_stderr(errors),
        ThreadPoolExecutor(1) as thread,  # a command runs an event loop, and the test may be inside one
    ):
        code = thread.submit(main, list(arguments)).result(60)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def relay_process(settings: Settings, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as users do."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *arguments],
        env=inherited_environment({"DATABASE_URL": settings.database.dsn, **environment}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def relay_json(settings: Settings, *arguments: str) -> Any:
    done = relay(settings, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_projects_and_keys_are_created_listed_and_revoked(settings: Settings) -> None:
    project = relay_json(settings, "projects", "create", "acme")
    assert set(project) == {"projectId", "name", "keys"}
    assert "_" not in project["projectId"]
    kinds = {(key["mode"], key["type"]) for key in project["keys"]}
    assert kinds == {(m, t) for m in ("live", "test") for t in ("secret", "publishable")}
    for key in project["keys"]:
        parts = parse_key(key["key"])
        assert parts is not None
        assert (parts.mode, parts.type) == (key["mode"], key["type"])
    assert [p["name"] for p in relay_json(settings, "projects", "list")] == ["acme"]
    created = relay_json(
        settings, "keys", "create", "--project", project["projectId"], "--mode", "test", "--name", "ci"
    )
    listed = relay_json(settings, "keys", "list", "--project", project["projectId"])
    assert len(listed) == 5
    assert not any(secret["key"] in json.dumps(listed) for secret in (created, *project["keys"]))
    revoked = relay_json(settings, "keys", "revoke", created["keyId"])
    again = relay_json(settings, "keys", "revoke", created["keyId"])
    assert revoked["revokedAt"] == again["revokedAt"] is not None
    for command in (["projects", "list"], ["keys", "list"]):
        assert project["projectId"] in relay(settings, *command).stdout


def test_keys_are_rotated_and_projects_archived(settings: Settings) -> None:
    project = relay_json(settings, "projects", "create", "acme")["projectId"]
    old = relay_json(settings, "keys", "create", "--project", project, "--name", "server", "--expires", "90d")
    assert (old["name"], old["prefix"], old["createdBy"]) == ("server", "sk_live_", "cli")
    new = relay_json(settings, "keys", "rotate", old["keyId"], "--grace", "0")
    assert parse_key(new["key"]) is not None
    listed = {key["keyId"]: key for key in relay_json(settings, "keys", "list", "--project", project)}
    assert listed[old["keyId"]]["rotatedTo"] == new["keyId"]
    assert listed[old["keyId"]]["revokedAt"] is not None
    shown = relay(settings, "keys", "list").stdout
    assert f"sk_live_…{new['lastFour']}" in shown
    assert new["key"] not in shown
    assert [key["keyId"] for key in relay_json(settings, "keys", "revoke", new["keyId"], "--and-made")] == [
        new["keyId"]
    ]
    assert relay_json(settings, "projects", "rename", project, "Acme Inc.")["name"] == "Acme Inc."
    assert relay_json(settings, "projects", "archive", project)["archivedAt"] is not None
    assert relay_json(settings, "projects", "list") == []
    assert [p["name"] for p in relay_json(settings, "projects", "list", "--archived")] == ["Acme Inc."]
    assert relay_json(settings, "projects", "restore", project)["archivedAt"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keys", "revoke", "nosuchkey"], "No API key has the id 'nosuchkey'"),
        (["keys", "create", "--project", "nosuch"], "No project has the id 'nosuch'"),
        (["projects", "create", ""], "name must have 1 to 200"),
        (["projects", "archive", "nosuch"], "No project has the id 'nosuch'"),
        (["keys", "rotate", "nosuchkey"], "No API key has the id 'nosuchkey'"),
        (["keys", "create", "--project", "x", "--expires", "soon"], "write it like 90d"),
        (["keys", "rotate", "x", "--grace", "5"], "write it like 90d"),
        (["simulate", "--loss", "2"], "must be from 0 to 0.99"),
    ],
)
def test_errors_say_what_is_wrong(settings: Settings, arguments: list[str], said: str) -> None:
    done = relay(settings, *arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_usable_database_the_error_says_why(settings: Settings, tmp_path: Path) -> None:
    done = relay(settings, "projects", "list", "--data-dir", str(tmp_path / "none"), DATABASE_URL="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "start `relay up`" in done.stderr
    done = relay(settings, "projects", "list", DATABASE_URL="postgresql://someone:hunter22@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "hunter22" not in done.stderr
    done = relay(settings, "projects", "list", DATABASE_URL=re.sub(r"test_\d+", "nowhere", settings.database.dsn))
    assert (done.returncode, done.stderr) == (
        1,
        'relay: Postgres refuses DATABASE_URL: database "nowhere" does not exist\n',
    )


@pytest.mark.parametrize("service", ["api", "worker"])
def test_services_name_every_missing_variable(settings: Settings, service: str) -> None:
    blank = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "LIVEKIT_URL", "LIVEKIT_API_KEY", "AUTH_SECRET"), "")
    blank |= {"LIVEKIT_API_SECRET": "hunter22", "RELAY_API_URL": "ftp://x", "PORT": "high"}
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}.main"],
        env=inherited_environment(blank),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line.split()[2] for line in lines] == [
        "DATABASE_URL", "REDIS_URL", "LIVEKIT_URL", "LIVEKIT_API_KEY", "AUTH_SECRET", "RELAY_API_URL", "PORT",
    ]  # fmt: skip
    assert "hunter22" not in done.stderr


def test_a_closed_output_pipe_is_not_reported_as_a_database_error(settings: Settings) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "projects", "list"],
        env=inherited_environment({"DATABASE_URL": settings.database.dsn}),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_command_runs_as_a_process(settings: Settings) -> None:
    done = relay_process(settings, "projects", "create", "acme", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == "acme"
    done = relay_process(settings, "keys", "revoke", "nosuchkey")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No API key has the id 'nosuchkey'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_invalid_port_is_a_usage_error(settings: Settings) -> None:
    done = relay(settings, "up", "--port", "99999")
    assert done.returncode == 2
    assert "--port: must be from 1 to 65535" in done.stderr
