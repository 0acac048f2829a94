"""The format of logs: one JSON object a line, with the request id and without secrets."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from shared.infra.ids import new_key
from shared.infra.logs import choose_format, request_id, set_up_logging, without_secrets


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    written = io.StringIO()
    set_up_logging("json", "info", written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_stdlib_and_structlog_records_have_the_same_format(stream: io.StringIO) -> None:
    logging.getLogger("relay.one").warning("took %d of %d", 1, 2)
    structlog.get_logger("relay.two").warning("took some", taken=1)
    first, second = lines(stream)
    assert (first["event"], first["level"], first["logger"]) == ("took 1 of 2", "warning", "relay.one")
    assert (second["event"], second["taken"], second["logger"]) == ("took some", 1, "relay.two")
    assert first["timestamp"].endswith("Z")


def test_log_line_contains_the_request_id(stream: io.StringIO) -> None:
    token = request_id.set("req_1")
    logging.getLogger("relay.api").info("inside")
    request_id.reset(token)
    logging.getLogger("relay.api").info("outside")
    inside, outside = lines(stream)
    assert inside["request_id"] == "req_1"
    assert "request_id" not in outside


def test_exception_is_logged_in_one_line_without_its_password(stream: io.StringIO) -> None:
    try:
        raise ValueError("postgresql://relay:hunter2@db/relay is down")
    except ValueError:
        logging.getLogger("relay.api").exception("failed")
    (line,) = lines(stream)
    assert "ValueError" in line["exception"]
    assert "hunter2" not in stream.getvalue()


def test_keys_tokens_and_url_passwords_are_redacted() -> None:
    key = new_key("live", "secret")
    jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    text = without_secrets(f"{key} and Bearer {jwt} to rediss://:pa55@cache:6379/0 and redis://cache/0")
    assert text == "sk_live_*** and Bearer eyJhbGciOiJ*** to rediss://:***@cache:6379/0 and redis://cache/0"


def test_secret_in_a_logged_field_is_redacted(stream: io.StringIO) -> None:
    structlog.get_logger("relay.api").warning("odd", given=new_key("test", "secret"))
    assert lines(stream)[0]["given"] == "sk_test_***"


def test_info_level_omits_debug_lines_and_verbose_libraries(stream: io.StringIO) -> None:
    logging.getLogger("relay.worker").debug("every batch")
    logging.getLogger("dramatiq.worker").info("every message")
    logging.getLogger("uvicorn.error").warning("a failure")
    assert [line["event"] for line in lines(stream)] == ["a failure"]


def test_auto_format_is_text_on_a_terminal_and_json_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert choose_format("auto", io.StringIO()) == "json"
    assert choose_format("auto", Terminal()) == "text"
    assert choose_format("json", Terminal()) == "json"
    assert choose_format("text", io.StringIO()) == "text"
