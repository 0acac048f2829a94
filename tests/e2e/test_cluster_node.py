"""A Redis Cluster node with streams dies under load and returns: acknowledged events count once."""

import asyncio
import time
from pathlib import Path

import msgspec

from services.cli.projects import create_project
from services.cli.simulate.totals import expected
from shared.infra.postgres.pool import Pool, create_pool
from shared.infra.settings import Settings
from tests.e2e.balanced_load import drive
from tests.e2e.fleet import fleet, folded, webhooks
from tests.integration.test_volume import metered, traffic_for
from tests.redis_cluster import redis_cluster

_RATE = 120
_EVENTS = 900
_COUNTED_WITHIN_S = 60.0
# The first event for the dead node waits until the failure is detected.
_ANSWERED_WITHIN_S = 5.0


async def test_killed_and_restarted_cluster_node_loses_no_event(settings: Settings, tmp_path: Path) -> None:
    owners = [((await create_project(settings.database, name)).project_id, name) for name in ("one", "two")]
    options = ("--events", str(_EVENTS), "--rooms", "8", "--people", "8")
    traffic = traffic_for(owners, time.time_ns() // 1_000_000, *options)
    log = tmp_path / "log"
    with redis_cluster(tmp_path) as cluster:
        clustered = msgspec.structs.replace(settings, redis_streams_url=cluster.url)
        async with create_pool(settings.database, "tests") as pool, fleet(clustered, log) as (_, balancer):
            load = asyncio.create_task(drive(balancer, webhooks(clustered, traffic), _RATE, 32, lambda: False))
            try:
                await _until_counted(pool, _RATE, log)
                cluster.nodes[2].kill()
                deadline = time.monotonic() + _COUNTED_WITHIN_S
                while "using the inbox" not in logged(log):
                    assert time.monotonic() < deadline, logged(log)
                    await asyncio.sleep(0.05)
                # Events during the outage go through Postgres and are counted too. The node returns before the last ones.
                more = min(await _counted(pool) + 3 * _RATE, traffic.generated - _RATE)
                await _until_counted(pool, more, log)
                cluster.nodes[2].start()
                outcome = await load
            finally:
                load.cancel()
            # The nodes that were not killed take a moment to agree that the third is back. Until then reads fail.
            await asyncio.to_thread(cluster.wait_until_whole)
            await folded(clustered)
            await _until_counted(pool, traffic.generated, log)
            assert await metered(pool, owners) == expected(traffic.stays)
    assert not outcome.failed, outcome
    assert outcome.answered == traffic.generated
    assert outcome.slowest_s < _ANSWERED_WITHIN_S, outcome


def logged(log: Path) -> str:
    """Return the log of all processes."""
    return log.read_text(encoding="utf-8")


async def _counted(pool: Pool) -> int:
    async with pool.acquire() as conn:
        return int(await conn.fetchval("SELECT count(*) FROM event"))


async def _until_counted(pool: Pool, count: int, log: Path) -> None:
    deadline = time.monotonic() + _COUNTED_WITHIN_S
    while (counted := await _counted(pool)) < count:
        assert time.monotonic() < deadline, f"{counted} of {count} counted\n{logged(log)}"
        await asyncio.sleep(0.1)
