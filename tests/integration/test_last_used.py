"""The last use of a key is stored to the minute, and not with a write for each request."""

from datetime import UTC, datetime

import pytest

from services.api.http.access.last_used import LastUsed
from services.cli.keys import list_keys
from shared.infra.clock import MINUTE_MS
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject, KeyInfo
from tests.http_clients import loopback_client
from tests.integration.conftest import key_of, serving
from tests.integration.test_keys import CountingPool, ShiftedClock

pytestmark = pytest.mark.usefixtures("few_routes")


async def secret_key(settings: Settings, project: CreatedProject) -> KeyInfo:
    keys = await list_keys(settings.database, project.project_id)
    return next(key for key in keys if (key.mode, key.type) == ("live", "secret"))


async def test_a_stopping_process_writes_the_last_use_of_keys(settings: Settings, project: CreatedProject) -> None:
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    async with serving(settings) as url, loopback_client(url) as client:
        for _ in range(3):
            await client.post("/v1/tokens", json={"room": "r", "identity": "i"}, headers=key_of(project))
        await client.get("/v1/usage", headers=key_of(project, "test"))
        await client.post("/v1/tokens", json={}, headers=key_of(project, "live", "publishable"))
        assert (await secret_key(settings, project)).last_used_at is None
    used = {(k.mode, k.type): k.last_used_at for k in await list_keys(settings.database, project.project_id)}
    for kind in (("live", "secret"), ("test", "secret")):
        at = used[kind]
        assert at is not None
        assert before <= at <= datetime.now(UTC)
        assert (at.second, at.microsecond) == (0, 0)
    assert used["live", "publishable"] is used["test", "publishable"] is None


async def test_last_use_is_written_once_per_minute(pool: Pool, settings: Settings, project: CreatedProject) -> None:
    counting, clock = CountingPool(pool), ShiftedClock()
    last_used = LastUsed(counting, clock)  # type: ignore[arg-type]  # a stand-in for the pool
    key_id = (await secret_key(settings, project)).key_id
    minute = clock.now_ms() // MINUTE_MS * MINUTE_MS
    for second in range(5):
        last_used.seen[key_id] = minute + second
        await last_used.flush()
    assert counting.taken == 1
    await last_used.flush()
    last_used.seen[key_id] = minute + MINUTE_MS
    await last_used.flush()
    assert counting.taken == 2
    at = (await secret_key(settings, project)).last_used_at
    assert at is not None
    assert at.timestamp() * 1000 == minute + MINUTE_MS


async def test_a_failed_write_is_retried_and_dropped_after_a_while(
    pool: Pool, settings: Settings, project: CreatedProject
) -> None:
    counting, clock = CountingPool(pool), ShiftedClock()
    last_used = LastUsed(counting, clock)  # type: ignore[arg-type]  # a stand-in for the pool
    key_id = (await secret_key(settings, project)).key_id
    now_ms = clock.now_ms()
    last_used.seen = {key_id: now_ms, "of-no-key": now_ms}
    counting.broken = True
    await last_used.flush()
    assert set(last_used.seen) == {key_id, "of-no-key"}
    counting.broken = False
    await last_used.flush()
    assert (await secret_key(settings, project)).last_used_at is not None
    assert set(last_used.seen) == {"of-no-key"}
    clock.ahead_ms = 30 * MINUTE_MS
    await last_used.flush()
    assert last_used.seen == {}
