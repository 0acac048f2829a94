"""Jobs on a schedule. Each is due at start and then once an interval, in whichever worker gets to it first.

A job's lock in Postgres lets one worker run it at a time and dies with the worker that holds it; when it last began is
stored, so that ten workers do not run it ten times as often. A connection that is lost in the middle of a run loses the lock
too, and the job may then run twice at once: what a job does must be safe to repeat, as everything the worker does is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from shared.errors import RelayError
from shared.infra.clock import Clock
from shared.infra.postgres.pool import UNAVAILABLE, Pool
from shared.infra.redis import event_stream
from shared.infra.settings import Settings
from shared.infra.tasks import end_tasks
from shared.models.operations import JobRun
from shared.operations.queries import periodic as queries

log = logging.getLogger("relay.worker")

# Another worker has the lock, or Postgres is away: look again this soon, or after an interval if that is shorter.
LOOK_AGAIN_S = 5.0
# A run that failed or was killed is repeated after this long, or after an interval if that is shorter.
RETRY_S = 60.0
_AWAY = (*UNAVAILABLE, *event_stream.UNAVAILABLE)


class JobContext(NamedTuple):
    """What a job may use."""

    pool: Pool
    redis: event_stream.Redis
    settings: Settings
    clock: Clock


class Job(NamedTuple):
    """``run`` gets the context and the time it was started at (unix ms). ``interval_s`` 0: never. A run over ``limit_s`` is
    cancelled. ``alone`` False: in every worker, without a lock and without a record (a heartbeat)."""

    name: str
    interval_s: float
    run: Callable[[JobContext, int], Awaitable[None]]
    limit_s: float = 600.0
    alone: bool = True


class Schedule:
    """Runs jobs until it is stopped. A failure is logged (and recorded) and ends nothing."""

    def __init__(self, jobs: Sequence[Job], context: JobContext) -> None:
        self._jobs = [job for job in jobs if job.interval_s > 0]
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Must be called on the event loop that the context's pool belongs to."""
        self._tasks = [asyncio.create_task(self._repeat(job), name=f"periodic {job.name}") for job in self._jobs]

    async def stop(self) -> None:
        """Cancels what is running, and returns when it has let go of its locks. Every job is transactional."""
        await end_tasks(self._tasks)
        self._tasks.clear()

    async def _repeat(self, job: Job) -> None:
        while True:
            try:
                wait_s = await run_if_due(job, self._context)
            except _AWAY as error:
                log.warning("%s: %s; trying again", job.name, error or type(error).__name__)
                wait_s = min(job.interval_s, LOOK_AGAIN_S)
            except Exception:  # a defect of one job must be told and must not end its schedule
                log.exception("%s: cannot be run", job.name)
                wait_s = min(job.interval_s, RETRY_S)
            await asyncio.sleep(wait_s)


async def run_if_due(job: Job, context: JobContext) -> float:
    """Runs the job if it is due and nobody else does. Returns in how many seconds to look again."""
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
    """Seconds until the job is due; 0 or less: now. Asked by who holds the lock, so an unfinished run is one that was killed.
    A run from the future is that of a machine whose clock was wrong, and holds nothing up."""
    if last is None or last.started_ms > now_ms:
        return 0.0
    failed = last.finished_ms is None or last.error is not None
    pause_s = min(job.interval_s, RETRY_S) if failed else job.interval_s
    return (last.started_ms - now_ms) / 1000 + pause_s


async def _attempt(job: Job, context: JobContext, now_ms: int, last_error: str | None = None) -> str | None:
    """Runs the job once; what went wrong, if something did. A fact that is the last run's too is not told again: a LiveKit
    that is away is away for more than one run."""
    try:
        async with asyncio.timeout(job.limit_s) as limit:
            await job.run(context, now_ms)
    except Exception as error:  # whatever a job raises, the schedule goes on
        if limit.expired():
            log.warning("%s: not done after %g s; given up for this time", job.name, job.limit_s)
            return f"not done after {job.limit_s:g} s"
        told = f"{type(error).__name__}: {error}"
        if not isinstance(error, (*_AWAY, RelayError)):
            log.exception("%s: failed", job.name)
        elif told != last_error:
            log.warning("%s: %s", job.name, error or type(error).__name__)
        return told
    return None
