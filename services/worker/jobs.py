"""List the worker's periodic jobs."""

from services.worker import forget_attempts as attempts
from services.worker import partitions, reconcile_job
from services.worker.periodic import Job, JobContext
from shared.infra.memory import give_back_free_memory
from shared.infra.settings import Settings
from shared.ledger.reconcile import JOB


async def _trim(_context: JobContext, _now_ms: int) -> None:
    give_back_free_memory()


def periodic_jobs(settings: Settings) -> list[Job]:
    """Return the jobs of a worker. Of several workers, the one that gets a job's lock first runs it."""
    return [
        Job(JOB, settings.reconcile_interval_s, reconcile_job.reconcile_on_schedule, limit_s=reconcile_job.LIMIT_S),
        # Hourly is often enough: days are created a week ahead.
        Job(partitions.JOB, 3600, partitions.partition_events, limit_s=3600),
        attempts.JOB,
        # Runs in every worker, like the heartbeat.
        Job("memory", 60, _trim, alone=False),
    ]
