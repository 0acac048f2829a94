"""The composition root of the API: it opens connections, builds the routes and wires them together."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.exceptions import NotFoundException

from services.api import routes
from services.api.dependencies import KEY_DEPENDENCIES, shared_dependencies
from services.api.http.access.authentication import Authentication
from services.api.http.access.key_store import KeyStore
from services.api.http.access.last_used import LastUsed
from services.api.http.access.limits import Limits, connect_limits_redis
from services.api.http.litestar_internals import resolve_dependencies_in_sequence
from services.api.http.problems import answer_error
from services.api.http.requests import JsonRequest, check_parameters, require_secret_key
from services.api.http.serving.hot_routes import HotRoutes, header
from services.api.http.serving.server import Drain
from services.api.portal.error_pages import with_pages
from services.api.portal.passwords.hashing import Passwords
from services.api.portal.portal import create_portal
from services.api.portal.routes import portal_router
from services.api.reference.routes import reference_routes
from services.api.tokens import routes as tokens
from services.api.tokens.service import Minter
from services.api.usage.stream_backlog import StreamBacklog
from services.api.webhooks import routes as webhooks
from services.api.webhooks.intake import Intake
from shared.infra import metrics
from shared.infra.clock import Clock, SystemClock
from shared.infra.postgres.pool import BORROWED_S, Pool, create_pool, end_statements_after
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker
from shared.infra.settings import DatabaseUrl, Settings
from shared.infra.tasks import Background
from shared.livekit.access_token import TokenSigner
from shared.livekit.room_service import RoomService
from shared.livekit.webhook import WebhookVerifier
from shared.metering.usage import stale_after_ms
from shared.operations.backlog import Backlog

log = logging.getLogger("relay.api")
POOL_SIZE = 10
CLOSE_POOL_S = 5.0
# The paths that are served in front of the framework.
HOT_PATHS = (tokens.PATH, webhooks.PATH)


def open_pool(database: DatabaseUrl) -> Pool:
    """Return the API's connection pool. It opens when it is entered."""
    limit = end_statements_after(BORROWED_S)
    return create_pool(database, "relay api", max_size=POOL_SIZE, stateless=True, init=limit)


def create_app(
    settings: Settings, clock: Clock | None = None, drain: Drain | None = None, passwords: Passwords | None = None
) -> HotRoutes:
    """Build the ASGI application on the event loop it will run on. Its lifespan opens the connections."""
    clock = clock or SystemClock()
    pool = open_pool(settings.database)
    redis = event_stream.connect_streams(settings)
    broker = create_broker(settings.redis_url, [])
    keys = KeyStore(settings.database, pool, clock, settings.rate_limits.unknown_keys)
    limits_redis = connect_limits_redis(settings.redis_url)
    limits = Limits(settings.rate_limits, limits_redis, clock)
    last_used = LastUsed(pool, clock)
    authentication = Authentication(keys, limits, last_used, clock)
    intake = Intake(redis, pool, broker)
    backlog = Backlog(pool, redis, broker, clock)
    stale_ms = stale_after_ms(settings.reconcile_interval_s)
    livekit = RoomService(settings.livekit_api_url, settings.livekit_api_key, settings.livekit_api_secret, clock)
    drain = drain or Drain()
    stream_backlog = StreamBacklog(redis)
    portal = create_portal(
        settings,
        pool=pool,
        redis=redis,
        livekit=livekit,
        backlog=stream_backlog,
        stale_ms=stale_ms,
        clock=clock,
        drain=drain,
        passwords=passwords,
    )

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with _opened(pool), livekit:
            metrics.watch_pool(pool.get_size, pool.get_idle_size, POOL_SIZE)
            await _warn_of_weak_redis(redis)
            background = Background(drain.fail)
            background.start("keys", keys.run())
            background.start("limits", limits.run())
            background.start("last used", last_used.run())
            storing = background.start("intake", intake.run())
            try:
                yield
            finally:
                background.expect_end()
                intake.close()
                await asyncio.wait([storing])
                await background.end()
                await last_used.flush()
                await limits.flush()
                await limits_redis.aclose()
                await redis.aclose()
                broker.close()

    signer = TokenSigner(settings.livekit_api_key, settings.livekit_api_secret)
    verifier = WebhookVerifier(settings.livekit_api_key, settings.livekit_api_secret, settings.livekit_previous)
    minter = Minter(signer, settings.livekit_url, clock)
    receiver = webhooks.WebhookReceiver(verifier, intake, clock)
    v1 = Router(
        "/v1",
        route_handlers=routes.V1,
        guards=[require_secret_key],
        before_request=check_parameters,
        dependencies=KEY_DEPENDENCIES,
        security=[{"secretKey": []}],
    )
    described = [v1, *routes.OPEN]
    dependencies = shared_dependencies(
        {
            "authentication": authentication,
            "backlog": backlog,
            "clock": clock,
            "drain": drain,
            "livekit": livekit,
            "minter": minter,
            "pool": pool,
            "receiver": receiver,
            "redis": redis,
            "stale_ms": stale_ms,
            "stream_backlog": stream_backlog,
        }
    )
    app = Litestar(
        route_handlers=[
            *described,
            *reference_routes(described, dependencies, settings.relay_api_url),
            portal_router(portal),
        ],
        dependencies=dependencies,
        exception_handlers={NotFoundException: with_pages(portal, answer_error), Exception: answer_error},
        request_class=JsonRequest,
        request_max_body_size=tokens.BODY_LIMIT,
        lifespan=[lifespan],
        state=State({"authentication": authentication}),
        openapi_config=None,
        logging_config=None,
    )
    resolve_dependencies_in_sequence(app)

    def is_known(scope: Any) -> bool:
        if scope["path"] == webhooks.PATH:
            return receiver.is_signed(header(scope, b"authorization"))
        return authentication.knows_token_key(scope)

    hot = HotRoutes(app, is_known)
    hot.post(tokens.PATH, tokens.token_route(authentication, minter, clock))
    hot.post(webhooks.PATH, webhooks.webhook_route(receiver))
    return hot


@asynccontextmanager
async def _opened(pool: Pool) -> AsyncIterator[None]:
    """Open the pool, and close it within ``CLOSE_POOL_S`` seconds.

    Closing waits for every connection to be returned. A connection that a cancelled request never returned must not block the
    shutdown.
    """
    await pool
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(CLOSE_POOL_S):
                await pool.close()
        except TimeoutError:
            log.warning("connections to Postgres did not come back within %g s; Relay closes them", CLOSE_POOL_S)
            pool.terminate()


async def _warn_of_weak_redis(redis: event_stream.Redis) -> None:
    try:
        if await event_stream.is_durable(redis) is False:
            log.warning(
                "Redis does not sync its append-only file before it answers. A crash of Redis can lose acknowledged webhooks."
                " Set `appendonly yes` and `appendfsync always`."
            )
    except event_stream.UNAVAILABLE:
        log.warning("Relay cannot reach Redis; webhooks go to the inbox in Postgres meanwhile")
