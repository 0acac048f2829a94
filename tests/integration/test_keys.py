"""The key cache: when it is used, and when it must not be."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from services.api.http.access.key_store import OUTAGE_MS, PAUSE_MS, TRUST_MS, KeyStore
from services.api.http.access.unknown_key_limit import network_of
from services.cli.keys import create_key, revoke_key
from services.cli.projects import archive_project, create_project, restore_project
from shared.errors import StoreUnavailable, Unauthenticated
from shared.infra.clock import SystemClock
from shared.infra.ids import new_key
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.keys import queries

SOON_S = 15.0


class CountingPool:
    """The pool, counting the connections taken. ``broken`` makes it fail like an unreachable Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self.taken, self.broken = pool, 0, False

    def acquire(self, *, timeout: float) -> object:
        self.taken += 1
        if self.broken:
            raise asyncpg.CannotConnectNowError("not now")
        return self._pool.acquire(timeout=timeout)


class ShiftedClock(SystemClock):
    """The system clock, shifted ahead or fixed."""

    ahead_ms = 0
    fixed_ms: int | None = None

    def now_ms(self) -> int:
        return (super().now_ms() if self.fixed_ms is None else self.fixed_ms) + self.ahead_ms


class Harness:
    def __init__(self, settings: Settings, pool: Pool) -> None:
        self.pool, self.clock = CountingPool(pool), ShiftedClock()
        self.keys = KeyStore(settings.database, self.pool, self.clock)  # type: ignore[arg-type]  # a stand-in for the pool


@pytest.fixture
async def harness(settings: Settings, pool: Pool) -> AsyncIterator[Harness]:
    """A key store with a fixed clock.

    A heartbeat that is late on a busy machine therefore does not end the trust in the cache.
    """
    made = Harness(settings, pool)
    made.clock.fixed_ms = made.clock.now_ms()
    listening = asyncio.create_task(made.keys.run())
    await asyncio.sleep(0)
    yield made
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def wait_until_cached(harness: Harness, authorization: str) -> None:
    """Wait until a lookup is answered from the cache."""
    deadline = time.monotonic() + SOON_S
    while True:
        before = harness.pool.taken
        await harness.keys.authenticate(authorization)
        if harness.pool.taken == before:
            return
        assert time.monotonic() < deadline, "the cache never came to be trusted"
        await asyncio.sleep(0.01)


async def until_answered(harness: Harness, authorization: str, code: str | None) -> None:
    """Wait until the key is refused with ``code``, or works if ``code`` is None.

    The clock is fixed, so only notifications can change the answer.
    """
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                await harness.keys.authenticate(authorization)
                found = None
            except Unauthenticated as refused:
                found = refused.code
            if found == code:
                return
            await asyncio.sleep(0.005)


async def test_a_known_key_costs_no_query(harness: Harness, settings: Settings) -> None:
    """Creating a token does no I/O.

    A heartbeat that never succeeded once made every request a query, at half the speed.
    """
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    await wait_until_cached(harness, authorization)
    before = harness.pool.taken
    for _ in range(200):
        await harness.keys.authenticate(authorization)
    assert harness.pool.taken == before


async def test_a_mistyped_key_costs_no_query(harness: Harness) -> None:
    key = new_key("live", "secret")
    with pytest.raises(Unauthenticated):
        await harness.keys.authenticate(f"Bearer {key[:-1]}{'A' if key[-1] != 'A' else 'B'}")
    assert harness.pool.taken == 0
    with pytest.raises(Unauthenticated):
        await harness.keys.authenticate(f"Bearer {key}")
    assert harness.pool.taken == 1


async def test_a_revocation_clears_the_cache(harness: Harness, settings: Settings) -> None:
    project = await create_project(settings.database, "acme")
    key = await create_key(settings.database, project.project_id, "live", "secret", "x")
    await wait_until_cached(harness, f"Bearer {key.key}")
    await revoke_key(settings.database, key.key_id)
    await until_answered(harness, f"Bearer {key.key}", "revoked_key")


async def test_the_cache_needs_a_listener_and_bridges_only_short_outages(settings: Settings, pool: Pool) -> None:
    harness = Harness(settings, pool)  # no listener runs
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    for number in range(3):
        await harness.keys.authenticate(authorization)
        assert harness.pool.taken == number + 1
    harness.pool.broken = True
    harness.clock.ahead_ms = OUTAGE_MS - TRUST_MS
    await harness.keys.authenticate(authorization)
    harness.clock.ahead_ms = OUTAGE_MS + 1000
    with pytest.raises(StoreUnavailable):
        await harness.keys.authenticate(authorization)
    with pytest.raises(StoreUnavailable):
        await harness.keys.authenticate(f"Bearer {project.keys[2].key}")


async def test_archiving_and_restoring_a_project_clear_the_cache(harness: Harness, settings: Settings) -> None:
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    await wait_until_cached(harness, authorization)
    await archive_project(settings.database, project.project_id)
    await until_answered(harness, authorization, "archived_project")
    await restore_project(settings.database, project.project_id)
    await until_answered(harness, authorization, None)


async def test_writing_the_last_use_does_not_clear_the_cache(harness: Harness, settings: Settings, pool: Pool) -> None:
    """Each api process writes the last use every half minute.

    Notifications for these writes would clear the caches of all other processes as often.
    """
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    await wait_until_cached(harness, authorization)
    before = harness.pool.taken
    async with pool.acquire() as conn:
        await queries.mark_used(conn, {key.key_id: datetime.now(UTC) for key in project.keys})
        await queries.rename_key(conn, project.keys[1].key_id, "other")
        # This later change is notified on the same channel. Once it is heard, earlier notifications have arrived too.
        await queries.revoke_keys(conn, [project.keys[1].key_id], datetime.now(UTC))
    deadline = time.monotonic() + SOON_S
    while harness.keys.changes_seen < 2:  # the first is the connection itself
        assert time.monotonic() < deadline, "the revocation was not heard"
        await asyncio.sleep(0.005)
    assert harness.keys.changes_seen == 2
    await harness.keys.authenticate(authorization)
    assert harness.pool.taken == before


async def test_concurrent_requests_with_the_same_key_share_a_query(harness: Harness, settings: Settings) -> None:
    """A process that has just started gets the requests of all its clients at once."""
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    records = await asyncio.gather(*(harness.keys.authenticate(authorization) for _ in range(50)))
    assert len({record.key_id for record in records}) == 1
    assert harness.pool.taken == 1


async def test_a_cancelled_client_does_not_cancel_the_shared_query(harness: Harness, settings: Settings) -> None:
    project = await create_project(settings.database, "acme")
    asking = [asyncio.create_task(harness.keys.authenticate(f"Bearer {project.keys[0].key}")) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(not isinstance(result, BaseException) for result in results[1:])


async def test_a_clock_set_back_does_not_extend_the_trust_in_the_cache(settings: Settings, pool: Pool) -> None:
    """Otherwise the cache of a dead listener would be trusted until the clock caught up."""
    harness = Harness(settings, pool)
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    listening = asyncio.create_task(harness.keys.run())
    await wait_until_cached(harness, authorization)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    before = harness.pool.taken
    harness.clock.ahead_ms = -3_600_000
    await harness.keys.authenticate(authorization)
    assert harness.pool.taken == before + 1


async def test_ipv6_addresses_are_grouped_by_customer_network() -> None:
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9") != network_of("2001:db8:1:3::9")
    assert network_of("::ffff:192.0.2.7") == network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("not an address") == "not an address"


async def test_an_outage_costs_known_keys_one_query_per_pause(settings: Settings, pool: Pool) -> None:
    """A Postgres that drops packets fails after seconds. Every token request would wait for it."""
    harness = Harness(settings, pool)
    project = await create_project(settings.database, "acme")
    authorization = f"Bearer {project.keys[0].key}"
    await harness.keys.authenticate(authorization)
    harness.pool.broken = True
    before = harness.pool.taken
    harness.clock.fixed_ms = harness.clock.now_ms()
    for _ in range(20):
        await harness.keys.authenticate(authorization)
    assert harness.pool.taken == before + 1
    # An unknown key is still looked up, and a known one is looked up again soon after.
    with pytest.raises(StoreUnavailable):
        await harness.keys.authenticate(f"Bearer {project.keys[2].key}")
    harness.pool.broken = False
    harness.clock.ahead_ms = PAUSE_MS + 1
    await harness.keys.authenticate(authorization)
    assert harness.pool.taken == before + 3
