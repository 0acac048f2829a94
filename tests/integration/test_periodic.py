"""Periodic jobs run once per interval, in any number of workers. No job can end its schedule."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.worker.periodic import LOOK_AGAIN_S, RETRY_S, Job, JobContext, Schedule, run_if_due
from shared.errors import LiveKitUnreachable
from shared.infra.postgres.pool import Pool, create_pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings
from shared.operations.queries import periodic as queries
from tests.integration.conftest import SetClock

NOW = 1_795_000_000_000


@pytest.fixture
def clock() -> SetClock:
    return SetClock(NOW)


@pytest.fixture
async def context(settings: Settings, pool: Pool, clock: SetClock) -> AsyncIterator[JobContext]:
    redis = event_stream.connect_redis(settings.redis_url)
    yield JobContext(pool, redis, settings, clock)
    await redis.aclose()


class Counted:
    """Counts its runs, and how many of them ran at the same time."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.at_once = self.most_at_once = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def run(self, _: JobContext, now_ms: int) -> None:
        self.times.append(now_ms)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.go_on.wait()
        finally:
            self.at_once -= 1


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.005)


async def test_a_job_runs_at_start_and_then_once_per_interval(context: JobContext, clock: SetClock) -> None:
    counted = Counted()
    job = Job("count", 30, counted.run)
    assert await run_if_due(job, context) == 30
    clock.at_ms += 10_000
    assert await run_if_due(job, context) == 20  # another worker, or this one after a restart
    clock.at_ms += 20_000
    assert await run_if_due(job, context) == 30
    assert counted.times == [NOW, NOW + 30_000]


async def test_a_clock_that_was_ahead_does_not_delay_a_job(context: JobContext, clock: SetClock) -> None:
    counted = Counted()
    job = Job("count", 30, counted.run)
    clock.at_ms += 86_400_000
    await run_if_due(job, context)
    clock.at_ms = NOW
    await run_if_due(job, context)
    assert counted.times == [NOW + 86_400_000, NOW]


async def test_a_job_runs_in_one_worker_at_a_time(settings: Settings, context: JobContext) -> None:
    counted = Counted()
    counted.go_on.clear()
    job = Job("count", 30, counted.run)
    async with create_pool(settings.database, "another worker") as pool:
        first = asyncio.create_task(run_if_due(job, context))
        await until(lambda: counted.at_once == 1)
        others = [run_if_due(job, context._replace(pool=pool)) for _ in range(5)]
        assert await asyncio.gather(*others) == [LOOK_AGAIN_S] * 5
        counted.go_on.set()
        assert await first == 30
    assert (len(counted.times), counted.most_at_once) == (1, 1)


async def test_a_killed_run_is_repeated_soon(settings: Settings, context: JobContext, clock: SetClock) -> None:
    """The lock is released with the connection of the worker that held it."""
    counted = Counted()
    counted.go_on.clear()
    job = Job("count", 3600, counted.run)
    dying = create_pool(settings.database, "dying worker")
    await dying
    killed = asyncio.create_task(run_if_due(job, context._replace(pool=dying)))
    await until(lambda: counted.at_once == 1)
    dying.terminate()
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    counted.go_on.set()

    async def looked() -> bool:
        # The server notices the end of a connection after a moment.
        return await run_if_due(job, context) > LOOK_AGAIN_S

    await until(looked)
    assert len(counted.times) == 1
    clock.at_ms += int(RETRY_S * 1000)
    assert await run_if_due(job, context) == 3600
    assert len(counted.times) == 2


async def test_a_failure_is_recorded_and_repeated_soon(
    context: JobContext, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: JobContext, __: int) -> None:
        raise ValueError("no such thing\0")

    job = Job("fail", 3600, fail)
    assert await run_if_due(job, context) == RETRY_S
    assert "fail: failed" in caplog.text
    async with context.pool.acquire() as conn:
        last = await queries.last_run(conn, "fail")
        assert last is not None
        assert (last.finished_ms, last.error) == (NOW, "ValueError: no such thing�")
        counted = Counted()
        clock.at_ms += int(RETRY_S * 1000)
        await run_if_due(job._replace(run=counted.run), context)
        last = await queries.last_run(conn, "fail")
        assert last is not None
        assert last.error is None
    assert len(counted.times) == 1


async def test_a_lasting_failure_is_logged_once(
    context: JobContext, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: JobContext, __: int) -> None:
        raise LiveKitUnreachable

    for _ in range(3):
        await run_if_due(Job("fail", 30, fail), context)
        clock.at_ms += 30_000
    assert caplog.text.count("fail: ") == 1
    assert "Traceback" not in caplog.text


async def test_a_run_that_takes_too_long_is_cancelled(context: JobContext, caplog: pytest.LogCaptureFixture) -> None:
    counted = Counted()
    counted.go_on.clear()
    await run_if_due(Job("slow", 30, counted.run, limit_s=0.05), context)
    assert counted.at_once == 0
    assert "slow: not done after 0.05 s" in caplog.text


async def test_a_schedule_survives_failures_and_stops_cleanly(context: JobContext) -> None:
    """Jobs that are not `alone` run in every worker, others in one. A cancelled job releases its lock."""
    beats, tries = 0, 0

    async def beat(_: JobContext, __: int) -> None:
        nonlocal beats
        beats += 1

    async def fail(_: JobContext, __: int) -> None:
        nonlocal tries
        tries += 1
        raise ConnectionError("LiveKit is away")

    held = Counted()
    held.go_on.clear()
    jobs = [
        Job("beat", 0.01, beat, alone=False),
        Job("fail", 0.01, fail, alone=False),
        Job("held", 30, held.run),
        Job("never", 0, held.run),
    ]
    schedule = Schedule(jobs, context)
    schedule.start()
    await until(lambda: beats > 2 and tries > 2 and held.at_once == 1)
    await schedule.stop()
    assert held.at_once == 0
    assert len(held.times) == 1
    async with context.pool.acquire() as conn, queries.job_lock(conn, "held") as free:
        assert free


async def test_an_unreachable_postgres_does_not_end_the_schedule(
    settings: Settings, context: JobContext, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted()
    closed = create_pool(settings.database, "away")
    await closed
    await closed.close()
    schedule = Schedule([Job("count", 0.01, counted.run)], context._replace(pool=closed))
    schedule.start()
    await until(lambda: caplog.text.count("count: ") > 1)
    await schedule.stop()
    assert counted.times == []


async def test_the_schedule_stops_although_a_driver_loses_its_cancellation(context: JobContext) -> None:
    """A cancellation can be lost if it comes together with a time-out.

    This happens when Postgres and Redis become unreachable at the moment of the stop.
    """
    began, lost = asyncio.Event(), 0

    async def deaf_once(_context: JobContext, _now_ms: int) -> None:
        nonlocal lost
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost += 1
            if lost > 1:
                raise

    schedule = Schedule([Job("deaf", 0.01, deaf_once, alone=False)], context)
    schedule.start()
    await began.wait()
    async with asyncio.timeout(10):
        await schedule.stop()
    assert lost == 2
