"""What comes out of the logs: one JSON object a line, with the request's id and without secrets."""

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


def test_both_ways_of_logging_look_the_same(stream: io.StringIO) -> None:
    logging.getLogger("relay.one").warning("took %d of %d", 1, 2)
    structlog.get_logger("relay.two").warning("took some", taken=1)
    first, second = lines(stream)
    assert (first["event"], first["level"], first["logger"]) == ("took 1 of 2", "warning", "relay.one")
    assert (second["event"], second["taken"], second["logger"]) == ("took some", 1, "relay.two")
    assert first["timestamp"].endswith("Z")


def test_a_line_names_its_request(stream: io.StringIO) -> None:
    token = request_id.set("req_1")
    logging.getLogger("relay.api").info("inside")
    request_id.reset(token)
    logging.getLogger("relay.api").info("outside")
    inside, outside = lines(stream)
    assert inside["request_id"] == "req_1"
    assert "request_id" not in outside


def test_an_exception_stays_on_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("postgresql://relay:hunter2@db/relay is down")
    except ValueError:
        logging.getLogger("relay.api").exception("failed")
    (line,) = lines(stream)
    assert "ValueError" in line["exception"]
    assert "hunter2" not in stream.getvalue()


def test_secrets_are_blotted_out() -> None:
    key = new_key("live", "secret")
    jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    text = without_secrets(f"{key} and Bearer {jwt} to rediss://:pa55@cache:6379/0 and redis://cache/0")
    assert text == "sk_live_*** and Bearer eyJhbGciOiJ*** to rediss://:***@cache:6379/0 and redis://cache/0"


def test_a_secret_in_a_logged_value_is_blotted_out(stream: io.StringIO) -> None:
    structlog.get_logger("relay.api").warning("odd", given=new_key("test", "secret"))
    assert lines(stream)[0]["given"] == "sk_test_***"


def test_debug_and_chatty_libraries_are_silent_at_info(stream: io.StringIO) -> None:
    logging.getLogger("relay.worker").debug("every batch")
    logging.getLogger("dramatiq.worker").info("every message")
    logging.getLogger("uvicorn.error").warning("a failure")
    assert [line["event"] for line in lines(stream)] == ["a failure"]


def test_auto_is_json_unless_somebody_reads_along() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert choose_format("auto", io.StringIO()) == "json"
    assert choose_format("auto", Terminal()) == "text"
    assert choose_format("json", Terminal()) == "json"
    assert choose_format("text", io.StringIO()) == "text"
