"""The objects that all pages of the process share. The application creates them once."""

import functools
from typing import NamedTuple
from urllib.parse import urlsplit

from jinja2 import Environment

from services.api.http.serving.server import Drain
from services.api.portal.cookies import Cookies
from services.api.portal.hosts import AllowedHosts
from services.api.portal.overview.live_updates import LiveUpdates
from services.api.portal.passwords.hashing import Passwords
from services.api.portal.rooms.livekit_patience import LiveKitPatience
from services.api.portal.static_files import StaticFiles
from services.api.portal.templating import create_templates
from services.api.usage.stream_backlog import StreamBacklog
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Pool
from shared.infra.redis.event_stream import Redis
from shared.infra.settings import Settings
from shared.livekit.access_token import TokenSigner
from shared.livekit.room_service import RoomService


class Portal(NamedTuple):
    """The shared objects of all pages.

    ``stale_ms``: how long an open session counts without confirmation (None: no limit). ``started_ms``: unix ms.
    """

    settings: Settings
    pool: Pool
    redis: Redis
    livekit: RoomService
    backlog: StreamBacklog
    stale_ms: int | None
    clock: Clock
    cookies: Cookies
    hosts: AllowedHosts
    passwords: Passwords
    templates: Environment
    static: StaticFiles
    signer: TokenSigner
    live: LiveUpdates
    patience: LiveKitPatience
    started_ms: int


def create_portal(
    settings: Settings,
    *,
    pool: Pool,
    redis: Redis,
    livekit: RoomService,
    backlog: StreamBacklog,
    stale_ms: int | None,
    clock: Clock,
    drain: Drain,
    passwords: Passwords | None = None,
) -> Portal:
    """Create the portal's shared objects. Reads templates and static files, but opens no connection."""
    static, templates = _files()
    return Portal(
        settings=settings,
        pool=pool,
        redis=redis,
        livekit=livekit,
        backlog=backlog,
        stale_ms=stale_ms,
        clock=clock,
        cookies=Cookies(
            settings.auth_secret,
            secure=urlsplit(settings.relay_api_url).scheme == "https",
            previous=settings.auth_secret_previous,
        ),
        hosts=AllowedHosts(settings.relay_api_url, settings.portal_hosts),
        passwords=passwords or Passwords(),
        templates=templates,
        static=static,
        signer=TokenSigner(settings.livekit_api_key, settings.livekit_api_secret),
        live=LiveUpdates(pool, clock, drain),
        patience=LiveKitPatience(),
        started_ms=clock.now_ms(),
    )


@functools.cache
def _files() -> tuple[StaticFiles, Environment]:
    """Read static files and templates once in a process.

    Every instance shows the same files, and Jinja keeps what it compiled in its environment. Values of one instance go into
    the call that renders, never into the environment.
    """
    static = StaticFiles()
    return static, create_templates(static)
