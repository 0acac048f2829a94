"""Delete the records of requests with an Idempotency-Key after a day."""

from services.worker.periodic import Job, JobContext
from shared.idempotency import queries

_EVERY_S = 3600.0
_AT_ONCE = 5000


async def forget_attempts(context: JobContext, now_ms: int) -> None:
    """Delete expired records in small transactions, so that no request waits for a long one."""
    async with context.pool.acquire() as conn:
        while await queries.forget(conn, now_ms - queries.KEPT_MS, _AT_ONCE) == _AT_ONCE:
            pass


JOB = Job("forget-attempts", _EVERY_S, forget_attempts)
