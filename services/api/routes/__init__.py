"""The routes of the API. A new one is declared in a module here and added to one of these lists."""

from typing import Final

from litestar.types import ControllerRouterHandler

from services.api.routes import events, health, metrics, sessions, tokens, usage, webhooks
from services.api.routes.keys import KeysController
from services.api.routes.participants import ParticipantsController
from services.api.routes.rooms import RoomsController

# Under /v1, for secret keys: see ``services/api/requests.py`` for what holds for all of them.
V1: Final[list[ControllerRouterHandler]] = [
    tokens.create_token,
    KeysController,
    RoomsController,
    ParticipantsController,
    usage.get_usage,
    sessions.list_sessions,
    sessions.get_session,
    events.list_events,
]
# Each with its full path and its own idea of who may ask.
OPEN: Final[list[ControllerRouterHandler]] = [
    webhooks.receive_webhook,
    health.healthz,
    health.readyz,
    metrics.get_metrics,
]
