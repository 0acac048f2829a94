"""What the handlers are given: opened by the application, shared by all requests of the process."""

from typing import NamedTuple

from services.api.as_of import StreamBacklog
from services.api.authentication import Authentication
from services.api.server import Drain
from shared.backlog import Backlog
from shared.clock import Clock
from shared.event_stream import Redis
from shared.livekit.room_service import RoomService
from shared.postgres import Pool


class Context(NamedTuple):
    """``stale_ms``: how long an open session that nothing confirms goes on counting (shared/metering/usage.py)."""

    authentication: Authentication
    pool: Pool
    redis: Redis
    waiting: StreamBacklog
    clock: Clock
    backlog: Backlog
    stale_ms: int | None
    drain: Drain
    livekit: RoomService
