"""The doctor checks livekit.yaml and reports risky settings."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from services.cli.doctor.livekit_config import NEEDED_EVENTS, WANTED_DEPTH, check_livekit_config
from services.cli.doctor.settings import check_settings
from shared.infra.settings import Settings, load_settings
from shared.models.key_pair import KeyPair
from tests.unit.test_deployment_files import COMPLETE

SETTINGS = load_settings({**COMPLETE, "LIVEKIT_API_KEY": "APIrelay", "LIVEKIT_API_SECRET": "s" * 40})
URL = "https://relay.example.com/api/webhooks/livekit"
GOOD: dict[str, Any] = {
    "keys": {"APIrelay": "s" * 40},
    "webhook": {
        "api_key": "APIrelay",
        "urls": [URL],
        "resource_url_notifier": {"max_depth": WANTED_DEPTH, "max_age": "10m"},
    },
}


def found(tmp_path: Path, config: Any, settings: Settings = SETTINGS) -> list[tuple[str, str]]:
    path = tmp_path / "livekit.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config), encoding="utf-8")
    return [(finding.level, finding.fact) for finding in check_livekit_config(path, settings)]


def with_webhook(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "webhook": {**GOOD["webhook"], **changes}}


def test_correct_livekit_config_passes(tmp_path: Path) -> None:
    assert [level for level, _ in found(tmp_path, GOOD)] == ["ok"]


@pytest.mark.parametrize(
    ("config", "level", "part"),
    [
        ({"keys": GOOD["keys"]}, "error", "does not name Relay"),
        ({"keys": GOOD["keys"], "webhook": {"urls": "nonsense"}}, "error", "does not name Relay"),
        ({**GOOD, "keys": {"APIother": "x"}}, "error", "does not hold Relay's LIVEKIT_API_KEY"),
        ({**GOOD, "keys": {"APIrelay": "x"}}, "error", "is not Relay's LIVEKIT_API_SECRET"),
        ({"webhook": GOOD["webhook"]}, "note", "no keys: in this file"),
        (with_webhook(api_key="APIother"), "error", "webhook.api_key is APIother"),
        (with_webhook(api_key=None), "error", "webhook.api_key is"),
        (with_webhook(urls=["https://other.example.com/hook", URL]), "warning", "not the first"),
        (with_webhook(urls=[URL, URL]), "warning", "2 times"),
        (with_webhook(urls=["http://api:3000/api/webhooks/livekit"]), "note", "by RELAY_API_URL it would be"),
        (with_webhook(resource_url_notifier={"max_age": "10m"}), "warning", "beyond 200 waiting"),
        (with_webhook(resource_url_notifier={"max_depth": 10_000}), "warning", "waited 30 s"),
        (with_webhook(resource_url_notifier={"max_depth": 10_000, "max_age": "1m30s"}), "warning", "waited 90 s"),
        (with_webhook(filter_params={"exclude_events": ["track_published"]}), "error", "track_published"),
        (with_webhook(filter_params={"include_events": ["room_started"]}), "error", "participant_left"),
        ({**GOOD, "room": {"enable_full_room_in_webhooks": True}}, "note", "whole room"),
        ("[1, 2]", "error", "holds no settings"),
        ("a: [", "error", "not valid YAML (line 1)"),
    ],
)
def test_faulty_livekit_config_yields_one_finding(tmp_path: Path, config: Any, level: str, part: str) -> None:
    findings = found(tmp_path, config)
    assert [(seen, part in fact) for seen, fact in findings] == [(level, True)], findings


def test_webhook_filters_that_pass_all_needed_events_are_accepted(tmp_path: Path) -> None:
    for params in ({"include_events": sorted(NEEDED_EVENTS)}, {"exclude_events": ["agent_job_started"]}):
        assert [level for level, _ in found(tmp_path, with_webhook(filter_params=params))] == ["ok"]


def test_previous_api_key_is_accepted_while_it_is_set(tmp_path: Path) -> None:
    changing = msgspec.structs.replace(SETTINGS, livekit_previous=KeyPair("APIold", "o" * 40))
    assert [level for level, _ in found(tmp_path, with_webhook(api_key="APIold"), changing)] == ["ok"]


def test_livekit_config_can_be_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container cannot read a file of mode 0600 that another user owns, but it can read standard input."""
    content = yaml.safe_dump({**GOOD, "keys": {"APIrelay": "another"}}).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    (finding,) = check_livekit_config(Path("-"), SETTINGS)
    assert (finding.level, "is not Relay's LIVEKIT_API_SECRET" in finding.fact) == ("error", True)


def test_unreadable_config_file_advises_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (finding,) = check_livekit_config(Path("/etc/livekit.yaml"), SETTINGS)
    assert finding.fact == "/etc/livekit.yaml cannot be read: Permission denied"
    assert "--livekit-config - <FILE" in finding.advice


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"keys: \x00", b"\x80abc", b"- 1", b""])
def test_config_that_is_not_a_yaml_mapping_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "livekit.yaml").write_bytes(content)
    (finding,) = check_livekit_config(tmp_path / "livekit.yaml", SETTINGS)
    assert finding.level == "error"


def test_missing_config_file_is_an_error(tmp_path: Path) -> None:
    (finding,) = check_livekit_config(tmp_path / "nowhere.yaml", SETTINGS)
    assert (finding.level, "cannot be read" in finding.fact) == ("error", True)


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, []),
        ({"livekit_api_secret": "secret"}, ["error"]),
        (
            {"livekit_api_secret": "secret", "livekit_url": "ws://localhost:7880", "relay_api_url": "http://localhost"},
            ["note"],
        ),
        ({"livekit_api_secret": "short"}, ["warning"]),
        ({"relay_api_url": "http://relay.example.com"}, ["warning"]),
        ({"livekit_url": "ws://livekit.example.com"}, ["warning"]),
        ({"livekit_url": "ws://127.0.0.1:7880"}, ["error"]),
        ({"livekit_previous": KeyPair("a", "b")}, ["note"]),
        ({"reconcile_interval_s": 0}, ["warning"]),
    ],
)
def test_risky_settings_yield_findings_with_advice(changes: dict[str, Any], levels: list[str]) -> None:
    findings = list(check_settings(msgspec.structs.replace(SETTINGS, **changes)))
    assert [finding.level for finding in findings] == levels
    assert all(finding.advice for finding in findings)
