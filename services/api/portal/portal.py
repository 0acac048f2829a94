"""What all pages share: opened by the application, one for the process."""

import asyncio
from typing import NamedTuple
from urllib.parse import urlsplit

from jinja2 import Environment

from services.api.portal.cookies import Cookies
from services.api.portal.passwords import Passwords
from services.api.portal.static_files import StaticFiles
from services.api.portal.templating import create_templates
from shared.clock import Clock
from shared.event_stream import Redis
from shared.livekit.access_token import TokenSigner
from shared.postgres import Pool
from shared.settings import Settings


class Portal(NamedTuple):
    settings: Settings
    pool: Pool
    redis: Redis
    clock: Clock
    cookies: Cookies
    passwords: Passwords
    templates: Environment
    static: StaticFiles
    signer: TokenSigner
    # Set when the process is asked to stop: streams of live updates end then, for they would never end by themselves.
    stopping: asyncio.Event


def create_portal(settings: Settings, pool: Pool, redis: Redis, clock: Clock) -> Portal:
    """Reads templates and static files; opens nothing."""
    static = StaticFiles()
    return Portal(
        settings=settings,
        pool=pool,
        redis=redis,
        clock=clock,
        cookies=Cookies(settings.auth_secret, secure=urlsplit(settings.relay_api_url).scheme == "https"),
        passwords=Passwords(),
        templates=create_templates(static),
        static=static,
        signer=TokenSigner(settings.livekit_api_key, settings.livekit_api_secret),
        stopping=asyncio.Event(),
    )
