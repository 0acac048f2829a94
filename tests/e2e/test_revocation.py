"""Every process refuses a revoked key within a second of the call's return, even if other parts fail."""

from pathlib import Path

from shared.infra.settings import Settings, environment
from tests.e2e.revocation import report, run

# Rounds of each case, and the seconds between two requests of each of the ten clients.
COUNT, PAUSE_S = (2, 0.0) if environment().get("RELAY_LONG_TESTS") == "1" else (1, 0.02)


async def test_revoked_key_is_refused_within_a_second(settings: Settings, short_tmp: Path) -> None:
    directory = short_tmp / "revocation"
    directory.mkdir()
    found = await run(directory, settings.database.dsn, COUNT, PAUSE_S)
    print(report(found))
    assert {one.case for one in found} == {"calm", "redis restarted", "listener cut", "listener silent"}
    for one in found:
        assert one.by_revoked > 0, f"nothing was minted with the key before: {one}"
        assert one.by_staying > 0, f"the other key did not work: {one}"
        assert not one.other_answers, f"requests failed otherwise: {one}"
        assert one.last_sent_ms < 1000, report(found)
