"""The table of settings matches the code, the docs, compose and .env.example.

Also: values that arrive with stray characters, and dangerous settings.
"""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from services.local.up import PublishedSecrets, refuse_published_secrets
from shared.errors import SettingsInvalid
from shared.infra.settings import Settings, load_settings
from shared.infra.settings_risks import log_risks, risks_of
from shared.infra.settings_table import BY_NAME, SETTINGS, Setting
from tests.examples import examples
from tests.unit.test_deployment_files import (
    COMPLETE,
    RecordingEnvironment,
    compose_environment,
    image_environment,
    read,
)

VALID = {
    **COMPLETE,
    "LIVEKIT_API_SECRET": "7rYb2kQz9mXw4vTn8sLc3pHd6fJg5aEu",
    "AUTH_SECRET": "Vx8Qm2Lk9Rz4Tn7Wc3Yp6Hd5",
    "REDIS_STREAMS_URL": "redis://node-1:6379",
    "LIVEKIT_API_URL": "http://livekit:7880",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    "LIVEKIT_API_KEY_PREVIOUS": "before",
    "LIVEKIT_API_SECRET_PREVIOUS": "9mXw4vTn8sLc3pHd6fJg5aEu7rYb2kQz",
    "AUTH_SECRET_PREVIOUS": "Tn7Wc3Yp6Hd5Vx8Qm2Lk9Rz4",
    "PORT": "3001",
    "RECONCILE_INTERVAL_SECONDS": "60",
    "EVENT_RETENTION_DAYS": "30",
    "WORKER_PORT": "3002",
    "DRAIN_SECONDS": "5",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "debug",
    **{setting.name: "7" for setting in SETTINGS if setting.name.startswith("RATE_LIMIT_")},
    "TRUSTED_PROXIES": "10.0.0.0/8",
    "PORTAL_HOSTS": "portal.example.com",
    "RELAY_SIGNUP": "open",
    "RELAY_HOST": "127.0.0.2",
    "RELAY_INTERNAL_URL": "http://api:3000",
}
around = st.text(st.sampled_from(" \t\r\n\ufeff\u200b\u00a0"), max_size=5)
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


def same(one: Settings, other: Settings) -> bool:
    return msgspec.structs.astuple(one) == msgspec.structs.astuple(other)


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(environ)
    assert len(refused.value.lines) == 1
    return refused.value.lines[0]


def test_load_settings_reads_exactly_the_settings_of_the_table() -> None:
    environment = RecordingEnvironment(VALID)
    load_settings(environment)
    assert environment.asked == set(BY_NAME) == set(VALID)
    assert len(BY_NAME) == len(SETTINGS)


@every_setting
def test_every_setting_affects_the_loaded_settings(setting: Setting) -> None:
    without = {name: value for name, value in VALID.items() if name != setting.name}
    if setting.required:
        assert refusal(without).startswith(f"{setting.name} is not set: ")
    elif setting.name == "LIVEKIT_API_SECRET_PREVIOUS":
        assert "set both or neither" in refusal(without)
    else:
        assert not same(load_settings(without), load_settings(VALID))
        assert same(load_settings(without), load_settings({**VALID, setting.name: setting.default}))


@law(max_examples=examples(300))
@given(st.sampled_from(SETTINGS), around, around)
def test_whitespace_and_byte_order_marks_around_a_value_are_stripped(setting: Setting, before: str, after: str) -> None:
    """Sources are files with CRLF, mounted secrets with a final newline, and editors that write a BOM."""
    arrived = {**VALID, setting.name: before + VALID[setting.name] + after}
    assert same(load_settings(arrived), load_settings(VALID))


@law(max_examples=examples(200))
@given(st.sampled_from(SETTINGS), around)
def test_blank_value_counts_as_not_set(setting: Setting, blank: str) -> None:
    if setting.required:
        assert refusal({**VALID, setting.name: blank}).startswith(f"{setting.name} is not set: ")
    elif setting.name != "LIVEKIT_API_SECRET_PREVIOUS":
        assert same(load_settings({**VALID, setting.name: blank}), load_settings({**VALID, setting.name: ""}))


@pytest.mark.parametrize("quotes", ['""', "''", "``", "\u201c\u201d", "\u2018\u2019"])
@every_setting
def test_quoted_value_is_refused_or_logged_without_repeating_it(
    setting: Setting, quotes: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = VALID[setting.name]
    arrived = {**VALID, setting.name: f" {quotes[0]}{value}{quotes[1]}\r\n"}
    if setting.kind != "secret":
        line = refusal(arrived)
        assert line.startswith(f"{setting.name} has quotes around it")
        assert value not in line
        return
    log_risks(load_settings(arrived))
    logged = [
        record.getMessage() for record in caplog.records if record.getMessage().startswith(f"settings: {setting.name} ")
    ]
    assert len(logged) == 1
    assert "quotes around it" in logged[0]
    assert value not in caplog.text


@every_setting
def test_line_break_within_a_value_is_refused(setting: Setting) -> None:
    value = VALID[setting.name]
    line = refusal({**VALID, setting.name: f"{value}\r\n{value}"})
    assert line == f"{setting.name} holds a line break: give it in one line"


def test_safe_settings_log_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    plain = {name: value for name, value in VALID.items() if not name.endswith("_PREVIOUS")}
    log_risks(load_settings(plain))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changes", "level", "named"),
    [
        ({"LIVEKIT_API_SECRET": "secret"}, "error", "LIVEKIT_API_SECRET"),
        ({"LIVEKIT_API_SECRET": "short"}, "warning", "LIVEKIT_API_SECRET"),
        ({"AUTH_SECRET": "demo-secret-that-everybody-can-read-0000"}, "error", "AUTH_SECRET"),
        ({"AUTH_SECRET": "sixteen-letters!"}, "warning", "AUTH_SECRET"),
        ({"AUTH_SECRET": "a" * 40}, "warning", "AUTH_SECRET"),
        ({"RELAY_API_URL": "http://relay.example.com"}, "warning", "RELAY_API_URL"),
        ({"LIVEKIT_URL": "ws://livekit.example.com"}, "warning", "LIVEKIT_URL"),
        ({"LIVEKIT_URL": "ws://127.0.0.2:7880"}, "error", "LIVEKIT_URL"),
    ],
)
def test_dangerous_settings_are_logged_at_start(
    changes: dict[str, str], level: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_settings({**VALID, **changes})
    assert any(risk.level == level and named in risk.fact for risk in risks_of(loaded))
    log_risks(loaded)
    assert any(named in record.getMessage() and record.levelname == level.upper() for record in caplog.records)


@pytest.mark.parametrize("host", ["::", "10.0.0.1", "192.168.1.7", "relay.example.com"])
@pytest.mark.parametrize(
    "secrets", [{"LIVEKIT_API_SECRET": "secret"}, {"AUTH_SECRET": "demo-secret-that-everybody-can-read"}]
)
def test_up_refuses_published_secrets_on_a_non_loopback_address(host: str, secrets: dict[str, str]) -> None:
    loaded = load_settings({**VALID, **secrets})
    with pytest.raises(PublishedSecrets, match=next(iter(secrets))):
        refuse_published_secrets(host, loaded)
    for local in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        refuse_published_secrets(local, loaded)
    refuse_published_secrets(host, load_settings(VALID))


@every_setting
def test_every_setting_is_described_by_a_unique_noun_phrase(setting: Setting) -> None:
    """The description follows "is not set: " in a message, so it is a noun phrase without a period."""
    assert re.match(r"(the|a|who) \S", setting.description), setting.description
    assert not setting.description.endswith(".")
    assert len(setting.description) <= 90
    assert sum(other.description == setting.description for other in SETTINGS) == 1


def test_default_settings_equal_those_of_the_table() -> None:
    required = {setting.name: VALID[setting.name] for setting in SETTINGS if setting.required}
    loaded = load_settings(required)
    built = Settings(
        database=loaded.database,
        redis_url=loaded.redis_url,
        livekit_url=loaded.livekit_url,
        livekit_api_url=loaded.livekit_api_url,
        livekit_api_key=loaded.livekit_api_key,
        livekit_api_secret=loaded.livekit_api_secret,
        auth_secret=loaded.auth_secret,
        relay_api_url=loaded.relay_api_url,
    )
    assert same(built, loaded)


def documented() -> dict[str, str]:
    """Name to row of the table in docs/self-hosting.md."""
    section = read("docs/self-hosting.md").partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[A-Z][^|]*) \| (.*) \|$", section, re.MULTILINE)
    return {name: text for names, text in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", names)}


def shown(default: str) -> set[str]:
    return {default, *default.split(",")}


def test_docs_list_every_setting_with_its_default() -> None:
    rows = documented()
    # Only the command line reads RELAY_DATA_DIR.
    assert set(rows) == set(BY_NAME) | {"RELAY_DATA_DIR"}
    for setting in SETTINGS:
        if setting.default:
            assert shown(setting.default) & set(re.findall(r"[\w:.,/]*\w", rows[setting.name])), setting.name


def test_env_example_shows_every_default() -> None:
    lines = dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE))
    for setting in SETTINGS:
        if setting.default and setting.name in lines:
            assert lines[setting.name] == setting.default, setting.name


def test_compose_passes_settings_unchanged() -> None:
    """An optional setting may be empty. Only addresses of servers that compose starts have other defaults."""
    own = {"DATABASE_URL", "REDIS_URL", "RELAY_INTERNAL_URL", "TRUSTED_PROXIES"}
    for name, value in compose_environment().items():
        setting = BY_NAME[name]
        if name not in own:
            form = rf"\$\{{{name}:\?set it in \.env to [^}}]+\}}" if setting.required else rf"\$\{{{name}:-\}}"
            assert re.fullmatch(form, value), name
    images = image_environment("Dockerfile.api") | image_environment("Dockerfile.worker")
    assert set(BY_NAME) <= set(compose_environment()) | images
