"""List the routes of the API.

Declare a new route in the `routes` module of its resource and add it to one of these lists.
"""

from typing import Final

from litestar.types import ControllerRouterHandler

from services.api.events import routes as events
from services.api.health import routes as health
from services.api.keys.routes import KeysController
from services.api.participants.routes import ParticipantsController
from services.api.rooms.routes import RoomsController
from services.api.sessions import routes as sessions
from services.api.tokens import routes as tokens
from services.api.usage import routes as usage
from services.api.webhooks import routes as webhooks

# Routes under /v1, for secret keys. ``services/api/http/requests.py`` describes the checks of every request.
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
# Routes with their full path and their own authentication.
OPEN: Final[list[ControllerRouterHandler]] = [
    webhooks.receive_webhook,
    health.healthz,
    health.readyz,
    health.get_metrics,
]
