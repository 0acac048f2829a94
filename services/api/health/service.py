"""Check whether this process can serve requests."""

import asyncio

import asyncpg
import msgspec

from services.api.health.schemas import Checks, Readiness
from services.api.http.serving.server import Drain
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.postgres.errors import ReadOnlySession
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed
from shared.infra.postgres.queries import is_read_only
from shared.infra.redis import event_stream

CHECK_TIMEOUT_S = 2.0


async def check_readiness(pool: Pool, redis: event_stream.Redis, drain: Drain) -> Readiness:
    """Check Postgres, the migrations, Redis and the process itself."""
    (postgres, migrations), redis_state = await asyncio.gather(_check_postgres(pool), _check_redis(redis))
    checks = Checks(postgres=postgres, migrations=migrations, redis=redis_state)
    if drain.failed is not None:
        checks.process = f"failed: {drain.failed}"
    elif drain.started:
        checks.process = "stopping"
    ready = all(state == "ok" for state in msgspec.structs.asdict(checks).values() if state is not msgspec.UNSET)
    return Readiness(status="ok" if ready else "unavailable", checks=checks)


async def _check_postgres(pool: Pool) -> tuple[str, str]:
    """Return the states of Postgres and of the migrations."""
    try:
        async with borrowed(pool, CHECK_TIMEOUT_S) as conn:
            if await is_read_only(conn):
                return "read-only", "unknown"
            missing = await missing_migrations(conn, known_migrations())
    except ReadOnlySession:
        return "read-only", "unknown"
    except (*UNAVAILABLE, asyncpg.PostgresError):
        return "unreachable", "unknown"
    return "ok", "ok" if not missing else f"pending: {missing[0]}; run `relay migrate`"


async def _check_redis(redis: event_stream.Redis) -> str:
    try:
        await redis.ping()
    except event_stream.UNAVAILABLE:
        return "unreachable"
    return "ok"
