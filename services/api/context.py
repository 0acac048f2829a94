"""What the portal shares with the API: opened by the application, used by all requests of the process."""

from typing import NamedTuple

from services.api.http.access.authentication import Authentication
from services.api.http.serving.server import Drain
from services.api.usage.stream_backlog import StreamBacklog
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Pool
from shared.infra.redis.event_stream import Redis
from shared.livekit.room_service import RoomService
from shared.operations.backlog import Backlog


class Context(NamedTuple):
    """``stale_ms``: how long an open session without a sign of life counts (shared/metering/usage.py)."""

    authentication: Authentication
    pool: Pool
    redis: Redis
    waiting: StreamBacklog
    clock: Clock
    backlog: Backlog
    stale_ms: int | None
    drain: Drain
    livekit: RoomService
