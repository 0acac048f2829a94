"""An `Accept` header that names CSV selects it, unless JSON has the same or a higher weight."""

import pytest

from services.api.usage.csv_answer import wants_csv


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html, application/xhtml+xml, */*;q=0.8", False),
        ("text/csv", True),
        ("TEXT/CSV; charset=utf-8", True),
        ("text/csv, */*;q=0.1", True),
        ("text/csv, application/json", False),
        ("text/csv, application/json;q=0.9", True),
        ("text/csv;q=0.5, application/json", False),
        ("text/csv;q=0", False),
        ("text/csv;q=many", False),
    ],
)
def test_accept_header_selects_csv(accept: str | None, wanted: bool) -> None:
    assert wants_csv(accept) is wanted
