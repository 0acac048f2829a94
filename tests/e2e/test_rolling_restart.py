"""Restart everything under load: no token request fails, every acknowledged webhook counts once."""

from pathlib import Path

from shared.infra.settings import Settings, environment
from tests.e2e.fleet import STOP_WITHIN_S
from tests.e2e.rolling_restart import rolling_restart

# Requests of each kind a second. `python -m tests.e2e.rolling_restart` takes other rates, and more rounds.
RATE = 150 if environment().get("RELAY_LONG_TESTS") == "1" else 45


async def test_rolling_restart_loses_and_duplicates_nothing(settings: Settings, tmp_path: Path) -> None:
    """Some clients go through a balancer that checks readiness, the others through the proxy of compose, which does not."""
    log = tmp_path / "log"
    figures = await rolling_restart(
        settings,
        log,
        rounds=1,
        tokens=RATE,
        webhook_rate=RATE,
        events=120 * RATE,
        drain_s=5,
        ways=("balancer", "proxy"),
    )
    assert figures.lost == 0, log.read_text()
    assert figures.verified
    assert set(figures.outcomes) == {"balancer", "proxy"}
    for way, outcomes in figures.outcomes.items():
        tokens, webhooks = outcomes["tokens"], outcomes["webhooks"]
        assert not tokens.failed, way
        assert not webhooks.failed, way
        assert webhooks.answered >= 500, way
        # A client must repeat a request if its connection closes. Draining prevents that.
        assert webhooks.repeated == 0, way
    assert figures.exit_codes == {0}
    assert figures.slowest_stop_s < STOP_WITHIN_S / 2
