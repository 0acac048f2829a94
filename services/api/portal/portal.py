"""What all pages share: opened by the application, one for the process."""

from typing import NamedTuple
from urllib.parse import urlsplit

from jinja2 import Environment

from services.api.context import Context
from services.api.portal.cookies import Cookies
from services.api.portal.hosts import AllowedHosts
from services.api.portal.live import LiveUpdates
from services.api.portal.livekit_patience import LiveKitPatience
from services.api.portal.passwords import Passwords
from services.api.portal.static_files import StaticFiles
from services.api.portal.templating import create_templates
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.livekit.access_token import TokenSigner


class Portal(NamedTuple):
    settings: Settings
    context: Context
    pool: Pool
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


def create_portal(settings: Settings, context: Context) -> Portal:
    """Reads templates and static files; opens nothing."""
    static = StaticFiles()
    return Portal(
        settings=settings,
        context=context,
        pool=context.pool,
        clock=context.clock,
        cookies=Cookies(
            settings.auth_secret,
            secure=urlsplit(settings.relay_api_url).scheme == "https",
            previous=settings.auth_secret_previous,
        ),
        hosts=AllowedHosts(settings.relay_api_url, settings.portal_hosts),
        passwords=Passwords(),
        templates=create_templates(static),
        static=static,
        signer=TokenSigner(settings.livekit_api_key, settings.livekit_api_secret),
        live=LiveUpdates(context.pool),
        patience=LiveKitPatience(),
        started_ms=context.clock.now_ms(),
    )
