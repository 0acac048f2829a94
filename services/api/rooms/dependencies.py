"""The dependency and the errors that the routes of rooms and participants share."""

from typing import Final

from litestar.di import NamedDependency, Provide
from litestar.params import FromPath

from services.api.rooms.recorded_acts import RecordedActs
from services.api.rooms.service import ProjectRooms
from shared.accounts.service import api_key
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Pool
from shared.livekit.room_service import RoomService
from shared.models.names import ExistingRoom
from shared.models.projects import KeyRecord

RoomInPath = FromPath[ExistingRoom]
# Errors that any request to LiveKit can end in.
LIVEKIT_ERRORS: Final = (
    "livekit_refused", "livekit_unreachable", "livekit_credentials", "livekit_failed", "livekit_timeout",
)  # fmt: skip
ROOM_ERRORS: Final = (*LIVEKIT_ERRORS, "room_not_found")


def provide_rooms(
    key: NamedDependency[KeyRecord],
    pool: NamedDependency[Pool],
    clock: NamedDependency[Clock],
    livekit: NamedDependency[RoomService],
) -> ProjectRooms:
    """Return the rooms of the key's project and mode."""
    acts = RecordedActs(pool, clock, api_key(key.key_id), key.project_id, key.mode)
    return ProjectRooms(livekit, acts)


ROOM_DEPENDENCIES: Final = {"rooms": Provide(provide_rooms, sync_to_thread=False)}
