"""Puts the API together: what it opens, what it routes, how it answers errors."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp

from services.api.auth import KeyStore
from services.api.context import Context
from services.api.hot_routes import HotRoutes
from services.api.intake import Intake
from services.api.problems import Problem, problem_of
from services.api.routes import health, tokens, usage, webhooks
from services.api.routes import metrics as metrics_route
from services.api.routes.participants import ParticipantsController
from services.api.routes.rooms import RoomsController
from services.api.server import Drain
from shared import event_stream, metrics
from shared.backlog import Backlog
from shared.clock import Clock, SystemClock
from shared.doorbell import create_broker
from shared.errors import RelayError
from shared.livekit.access_token import TokenSigner
from shared.livekit.room_service import RoomService
from shared.livekit.webhook import WebhookVerifier
from shared.metering.usage import stale_after_ms
from shared.postgres import create_pool
from shared.settings import Settings

log = logging.getLogger("relay.api")
POOL_SIZE = 10
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def create_app(settings: Settings, clock: Clock | None = None, drain: Drain | None = None) -> ASGIApp:
    """The ASGI application. Opens nothing before its lifespan starts; call it on the event loop it will run on."""
    clock = clock or SystemClock()
    pool = create_pool(settings.database, "relay api", max_size=POOL_SIZE)
    redis = event_stream.connect_redis(settings.redis_url)
    broker = create_broker(settings.redis_url, [])
    keys = KeyStore(settings.database, pool, clock)
    intake = Intake(redis, pool, broker)
    backlog = Backlog(pool, redis, broker, clock)
    stale_ms = stale_after_ms(settings.reconcile_interval_s)
    livekit = RoomService(settings.livekit_api_url, settings.livekit_api_key, settings.livekit_api_secret, clock)
    context = Context(keys, pool, redis, clock, backlog, stale_ms, drain or Drain(), livekit)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with pool, livekit:
            metrics.watch_pool(pool.get_size, pool.get_idle_size, POOL_SIZE)
            await _warn_of_weak_redis(redis)
            listening = asyncio.create_task(keys.run())
            storing = asyncio.create_task(intake.run())
            try:
                yield
            finally:
                intake.close()
                await storing
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                await redis.aclose()
                broker.close()

    app = Litestar(
        route_handlers=[
            usage.get_usage,
            health.healthz,
            health.readyz,
            metrics_route.get_metrics,
            RoomsController,
            ParticipantsController,
        ],
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        exception_handlers={Exception: _answer_error},
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )
    hot = HotRoutes(app)
    signer = TokenSigner(settings.livekit_api_key, settings.livekit_api_secret)
    verifier = WebhookVerifier(settings.livekit_api_key, settings.livekit_api_secret, settings.livekit_previous)
    hot.post(tokens.PATH, tokens.token_handler(keys, signer, settings.livekit_url, clock), tokens.BODY_LIMIT)
    hot.post(webhooks.PATH, webhooks.webhook_handler(verifier, intake, clock), webhooks.BODY_LIMIT)
    return hot


async def _warn_of_weak_redis(redis: event_stream.Redis) -> None:
    try:
        if await event_stream.is_durable(redis) is False:
            log.warning(
                "Redis does not sync its append-only file before it answers: a crash of it can lose acknowledged webhooks."
                " Set `appendonly yes` and `appendfsync always`."
            )
    except event_stream.UNAVAILABLE:
        log.warning("Redis cannot be reached; webhooks go to the inbox in Postgres until it can")


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    request_id = request.scope.get("relay_request_id", "")
    if isinstance(error, HTTPException):
        status = error.status_code
        detail = "there is nothing at this address" if status == 404 else error.detail
        if status >= 500:
            log.error("request %s failed", request_id, exc_info=error)
        problem = Problem(status, _HTTP_CODES.get(status, "invalid_request"), detail)
    else:
        problem = problem_of(error)
        if not isinstance(error, RelayError):
            log.error("request %s failed", request_id, exc_info=error)
    return Response(
        problem.body(str(request_id)),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=dict(problem.headers),
    )
