"""The time until which an open session counts in a usage request."""

from typing import Any

import pytest

from shared.metering.state import Session, Track
from shared.metering.usage import counted_until, stale_after_ms

T = 1_795_000_000_000
NIGHT = T + 8 * 3_600_000
STALE = 120_000


def session(**known: Any) -> Session:
    return Session(sid="PA", project_id="acme", mode="live", **{"joined_ms": T, **known})


@pytest.mark.parametrize(
    ("known", "confirmed_ms", "now_ms", "until_ms"),
    [
        ({}, None, T + STALE, T + STALE),
        ({}, None, T + STALE + 1, T),
        ({}, NIGHT - 1000, NIGHT, NIGHT),
        ({}, T + 60_000, NIGHT, T + 60_000),
        # Any sign of presence counts: a late event of the session, or a sighting of reconciliation.
        ({"active_ms": T + 700}, None, NIGHT, T + 700),
        ({"sighted_ms": T + 30_000}, T + 9_000, NIGHT, T + 30_000),
        ({"tracks": {"TR": Track("VIDEO", "CAMERA", T + 5000, T + 50_000)}}, None, NIGHT, T + 50_000),
        ({"joined_ms": None, "first_seen_ms": T + 1}, None, NIGHT, T + 1),
        # The clock of the machine that confirmed it is ahead.
        ({}, NIGHT + 500, NIGHT, NIGHT),
    ],
)
def test_open_session_counts_until_now_or_its_last_sign_of_presence(
    known: Any, confirmed_ms: int | None, now_ms: int, until_ms: int
) -> None:
    assert counted_until(session(**known), confirmed_ms, now_ms, STALE) == until_ms
    # Without reconciliation nothing could confirm the session, so it has no limit.
    assert counted_until(session(**known), confirmed_ms, now_ms, None) == now_ms


def test_stale_limit_allows_for_two_failed_passes() -> None:
    assert stale_after_ms(30) == 120_000
    assert stale_after_ms(0) is None
