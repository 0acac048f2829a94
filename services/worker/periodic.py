"""Run periodic jobs when the worker starts and then once an interval.

The worker that gets the lock of a job first runs it. A lock in Postgres lets one worker at a time run a job. It ends with the
worker that holds it. The time of the last start is stored, so that ten workers do not run a job ten times as often. If the
connection is lost during a run, the lock is lost too, and the job may run twice at the same time. So a job must be safe to
repeat, like all work of the worker.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from shared.errors import RelayError
from shared.infra.clock import Clock
from shared.infra.postgres.errors import UNAVAILABLE as POSTGRES_UNAVAILABLE
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.redis.errors import UNAVAILABLE as REDIS_UNAVAILABLE
from shared.infra.settings import Settings
from shared.infra.tasks import Background
from shared.models.operations import JobRun
from shared.operations.queries import periodic as queries

log = logging.getLogger("relay.worker")

# Wait this long, or an interval if that is shorter, when another worker holds the lock or Postgres is unreachable.
LOOK_AGAIN_S = 5.0
# A run that failed or was killed is repeated after this long, or after an interval if that is shorter.
RETRY_S = 60.0
_UNREACHABLE = (*POSTGRES_UNAVAILABLE, *REDIS_UNAVAILABLE)


class JobContext(NamedTuple):
    """The resources that a job may use."""

    pool: Pool
    redis: event_stream.Redis
    settings: Settings
    clock: Clock


class Job(NamedTuple):
    """A periodic job.

    ``run`` gets the context and the time of its start (unix ms). ``interval_s`` 0 means never. A run longer than ``limit_s`` is
    cancelled. ``alone`` False: the job runs in every worker, without a lock and without a record, like the heartbeat.
    """

    name: str
    interval_s: float
    run: Callable[[JobContext, int], Awaitable[None]]
    limit_s: float = 600.0
    alone: bool = True


class Schedule:
    """Runs jobs until it is stopped. A failure of a job is logged and recorded, and the job runs again.

    ``failed`` is called with the name of a task of the schedule that ends by itself.
    """

    def __init__(
        self, jobs: Sequence[Job], context: JobContext, failed: Callable[[str], None] = lambda name: None
    ) -> None:
        self._jobs = [job for job in jobs if job.interval_s > 0]
        self._context = context
        self._background = Background(failed)

    def start(self) -> None:
        """Start all jobs. Must be called on the event loop of the context's pool."""
        for job in self._jobs:
            self._background.start(f"periodic {job.name}", self._repeat(job))

    async def stop(self) -> None:
        """Cancel the running jobs, and return when they have released their locks. Every job is transactional."""
        await self._background.end()

    async def _repeat(self, job: Job) -> None:
        while True:
            try:
                wait_s = await run_if_due(job, self._context)
            except _UNREACHABLE as error:
                log.warning("%s: %s; trying again", job.name, error or type(error).__name__)
                wait_s = min(job.interval_s, LOOK_AGAIN_S)
            except Exception:  # a defect of one job is logged and must not end its schedule
                log.exception("%s: cannot be run", job.name)
                wait_s = min(job.interval_s, RETRY_S)
            await asyncio.sleep(wait_s)


async def run_if_due(job: Job, context: JobContext) -> float:
    """Run the job if it is due and no other worker runs it. Return the seconds until the next check."""
    if not job.alone:
        await _attempt(job, context, context.clock.now_ms())
        return job.interval_s
    async with context.pool.acquire() as conn, queries.job_lock(conn, job.name) as held:
        if not held:
            return min(job.interval_s, LOOK_AGAIN_S)
        now_ms = context.clock.now_ms()
        last = await queries.last_run(conn, job.name)
        wait_s = due_in_s(job, last, now_ms)
        if wait_s > 0:
            return wait_s
        await queries.record_start(conn, job.name, now_ms)
        error = await _attempt(job, context, now_ms, last.error if last is not None else None)
        ended_ms = context.clock.now_ms()
        await queries.record_end(conn, job.name, ended_ms, error)
        return max(0.0, due_in_s(job, JobRun(job.name, now_ms, ended_ms, error), ended_ms))


def due_in_s(job: Job, last: JobRun | None, now_ms: int) -> float:
    """Return the seconds until the job is due; 0 or less means now.

    The caller holds the lock, so an unfinished run was killed. A start in the future was recorded by a machine with a wrong
    clock and is ignored.
    """
    if last is None or last.started_ms > now_ms:
        return 0.0
    failed = last.finished_ms is None or last.error is not None
    pause_s = min(job.interval_s, RETRY_S) if failed else job.interval_s
    return (last.started_ms - now_ms) / 1000 + pause_s


async def _attempt(job: Job, context: JobContext, now_ms: int, last_error: str | None = None) -> str | None:
    """Run the job once. Return the error, or None.

    An error that the last run had too is not logged again, because an outage of LiveKit lasts for many runs.
    """
    try:
        async with asyncio.timeout(job.limit_s) as limit:
            await job.run(context, now_ms)
    except Exception as error:  # the schedule continues after any error of a job
        if limit.expired():
            log.warning("%s: not done after %g s; cancelled", job.name, job.limit_s)
            return f"not done after {job.limit_s:g} s"
        text = f"{type(error).__name__}: {error}"
        if not isinstance(error, (*_UNREACHABLE, RelayError)):
            log.exception("%s: failed", job.name)
        elif text != last_error:
            log.warning("%s: %s", job.name, error or type(error).__name__)
        return text
    return None
