"""`GET /healthz` and `GET /readyz`."""

import asyncio
from typing import Annotated, Literal

import asyncpg
import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from services.api.context import Context
from services.api.http.openapi import described
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.postgres.errors import ReadOnlySession
from shared.infra.postgres.pool import UNAVAILABLE, Pool, borrowed
from shared.infra.postgres.queries import is_read_only
from shared.infra.redis import event_stream
from shared.models.wire import Wire

CHECK_TIMEOUT_S = 2.0


class Alive(Wire):
    status: Literal["ok"]


Check = Annotated[str, msgspec.Meta(description="`ok`, or what is wrong.", examples=["ok"])]


class Checks(Wire):
    """``process`` is there only while this process stops, or where a part of it has failed."""

    postgres: Check
    migrations: Check
    redis: Check
    process: Check | msgspec.UnsetType = msgspec.UNSET


class Readiness(Wire):
    """``status`` is `ok` only if every check is."""

    status: Literal["ok", "unavailable"]
    checks: Checks


@get("/healthz", operation_id="getHealth", tags=["operations"], summary="The process lives", security=[])
async def healthz() -> Alive:
    return Alive(status="ok")


@get(
    "/readyz",
    operation_id="getReadiness",
    tags=["operations"],
    summary="Postgres, Redis and migrations",
    description="200 when all is well, else 503; `checks` says what is wrong.",
    security=[],
    opt=described(also_statuses=(503,)),
)
async def readyz(context: NamedDependency[Context]) -> Response[Readiness]:
    (postgres, migrations), redis_state = await asyncio.gather(
        _check_postgres(context.pool), _check_redis(context.redis)
    )
    checks = Checks(postgres=postgres, migrations=migrations, redis=redis_state)
    if context.drain.failed is not None:
        checks.process = f"failed: {context.drain.failed}"
    elif context.drain.started:
        checks.process = "stopping"
    ready = all(state == "ok" for state in msgspec.structs.asdict(checks).values() if state is not msgspec.UNSET)
    return Response(
        Readiness(status="ok" if ready else "unavailable", checks=checks), status_code=200 if ready else 503
    )


async def _check_postgres(pool: Pool) -> tuple[str, str]:
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
