"""Restart everything under load: no token request fails, every acknowledged webhook counts once."""

from pathlib import Path

import pytest

from shared.infra.settings import Settings
from tests.e2e.fleet import STOP_WITHIN_S
from tests.e2e.rolling_restart import rolling_restart


@pytest.mark.parametrize("proxy", [False, True], ids=["balancer", "proxy"])
async def test_rolling_restart_loses_and_duplicates_nothing(settings: Settings, tmp_path: Path, proxy: bool) -> None:
    log = tmp_path / "log"
    figures = await rolling_restart(
        settings,
        log,
        rounds=1,
        tokens=150,
        webhook_rate=150,
        events=9000,
        drain_s=5 if proxy else 2,
        proxy=proxy,
    )
    assert figures.lost == 0, log.read_text()
    assert figures.verified
    tokens, webhooks = figures.outcomes["tokens"], figures.outcomes["webhooks"]
    assert not tokens.failed
    assert not webhooks.failed
    assert webhooks.answered >= 500
    # A client must repeat a request if its connection closes. Draining prevents that.
    assert webhooks.repeated == 0
    assert figures.exit_codes == {0}
    assert figures.slowest_stop_s < STOP_WITHIN_S / 2
