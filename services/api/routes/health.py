"""`GET /healthz` and `GET /readyz`."""

import asyncio
from typing import Any

import asyncpg
from litestar import Response, get
from litestar.di import NamedDependency

from services.api.context import Context
from shared import event_stream
from shared.migrate import known_migrations
from shared.postgres import UNAVAILABLE, Pool
from shared.queries.migrations import missing_migrations

CHECK_TIMEOUT_S = 2.0


@get("/healthz", summary="The process lives")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@get("/readyz", summary="Postgres, Redis and migrations")
async def readyz(context: NamedDependency[Context]) -> Response[dict[str, Any]]:
    """200 when all is well, else 503; ``checks`` says what is wrong."""
    (postgres, migrations), redis_state = await asyncio.gather(
        _check_postgres(context.pool), _check_redis(context.redis)
    )
    checks = {"postgres": postgres, "migrations": migrations, "redis": redis_state}
    if context.drain.started:
        checks["process"] = "stopping"
    ready = all(state == "ok" for state in checks.values())
    return Response({"status": "ok" if ready else "unavailable", "checks": checks}, status_code=200 if ready else 503)


async def _check_postgres(pool: Pool) -> tuple[str, str]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S), pool.acquire() as conn:
            missing = await missing_migrations(conn, known_migrations())
    except (*UNAVAILABLE, asyncpg.PostgresError):
        return "unreachable", "unknown"
    return "ok", "ok" if not missing else f"pending: {missing[0]}; run `relay migrate`"


async def _check_redis(redis: event_stream.Redis) -> str:
    try:
        await redis.ping()
    except event_stream.UNAVAILABLE:
        return "unreachable"
    return "ok"
