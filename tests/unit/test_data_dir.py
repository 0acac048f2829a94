"""The environment that a running instance stores in its data directory for other commands."""

from pathlib import Path

import pytest

from services.local.data_dir import STORED, DataDir

STARTED_WITH = {
    "DATABASE_URL": "postgresql://embedded/relay",
    "REDIS_URL": "redis://embedded",
    "REDIS_STREAMS_URL": "redis://node-1:6379",
    "LIVEKIT_API_SECRET_PREVIOUS": "the one before",
    "PATH": "/usr/bin",
}


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the stored variables from the environment of the test process."""
    for name in STORED:
        monkeypatch.delenv(name, raising=False)


def test_stored_environment_holds_only_server_urls_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    DataDir(tmp_path).store(STARTED_WITH)
    assert DataDir(tmp_path).environment() == {name: value for name, value in STARTED_WITH.items() if name != "PATH"}
    assert (tmp_path / "environment.json").stat().st_mode & 0o077 == 0


def test_process_environment_overrides_the_stored_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataDir(tmp_path).store(STARTED_WITH)
    monkeypatch.setenv("REDIS_STREAMS_URL", "redis://node-2:6379")
    assert DataDir(tmp_path).environment()["REDIS_STREAMS_URL"] == "redis://node-2:6379"


def test_later_start_reuses_only_the_stored_auth_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    DataDir(tmp_path).store({**STARTED_WITH, "AUTH_SECRET": "of the first start"})
    planned = DataDir(tmp_path).planned(None)
    assert planned["AUTH_SECRET"] == "of the first start"
    assert not {"REDIS_STREAMS_URL", "LIVEKIT_API_SECRET_PREVIOUS"} & planned.keys()
