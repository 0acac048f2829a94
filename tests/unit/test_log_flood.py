"""A repeated failure is logged a few times and then counted. No other line is lost."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from shared.infra.log_flood import BURST, KINDS, FloodFilter
from shared.infra.logs import set_up_logging


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


class ManualClock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, level: int = logging.WARNING, *args: object) -> logging.LogRecord:
    return logging.LogRecord("relay.worker", level, __file__, 1, text, args, None)


def test_repeated_failures_are_logged_at_most_burst_times(stream: io.StringIO) -> None:
    for number in range(5000):
        logging.getLogger("relay.worker").warning(
            "partition %d: %s; the sweep will try again", number % 16, "disk full"
        )
        structlog.get_logger("relay.api").error("not_stored", number=number)
        try:
            raise OSError("No space left on device")
        except OSError:
            logging.getLogger("dramatiq.worker").exception("Failed to process message %s", number)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 3 * BURST
    assert sum("repeats" in line for line in lines) == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=300))
def test_every_log_line_is_written_or_counted(sent: list[tuple[str, float]]) -> None:
    clock = ManualClock()
    flood = FloodFilter(2, 60, clock)
    written = counted = 0
    for text, seconds in sent:
        clock.now += seconds
        line = record(text)
        written += flood.filter(line)
        counted += sum(entry["count"] for entry in getattr(line, "not_logged", ()))
    clock.now += 60
    last = record("later", logging.INFO)
    assert flood.filter(last)
    counted += sum(entry["count"] for entry in getattr(last, "not_logged", ()))
    assert written + counted == len(sent)


def test_info_lines_are_never_dropped() -> None:
    flood = FloodFilter()
    assert all(flood.filter(record("started", logging.INFO)) for _ in range(1000))


def test_number_of_remembered_message_kinds_is_bounded() -> None:
    flood = FloodFilter(1, 60, ManualClock())
    assert all(flood.filter(record(f"kind {number}")) for number in range(3 * KINDS))
    assert len(flood._windows) <= KINDS
