"""End the older room of a name when a newer one exists, in whatever order their events arrive."""

from collections.abc import Sequence

import msgspec

from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Connection
from shared.ledger.queries import sessions as session_queries
from shared.metering.reconcile import sighting_event
from shared.metering.state import Room, merged_rooms, succession

_encode = msgspec.json.Encoder().encode


async def succeeded_rooms(conn: Connection, observed: Sequence[Room]) -> list[Room]:
    """Return room states that mark the observed and stored rooms that a newer room of the name followed.

    Events of a room name are in one partition, and the caller holds its lock.
    """
    # A room that was observed without its creation time is among the stored rooms, if it is known.
    dated = merged_rooms(room for room in observed if room.created_ms is not None)
    if not dated:
        return []
    stored = await session_queries.namesakes(conn, list(dated.values()))
    return succession([*dated.values(), *(room for room in stored if room.sid not in dated)])


async def last_sightings(conn: Connection, succeeded: Sequence[Room]) -> list[bytes]:
    """Return bodies of events that record when LiveKit last listed the open sessions of followed rooms.

    A confirmation is not part of a session's state, but the session ends at its last sign.
    """
    superseded = {room.sid: room.superseded_ms for room in succeeded}
    if not superseded:
        return []
    bodies = []
    for session, confirmed_ms in await session_queries.confirmed_in_rooms(conn, sorted(superseded)):
        over_ms = superseded[session.room_sid or ""]
        if over_ms is None or session.project_id is None or session.mode is None or session.room is None:
            continue
        name = livekit_room(session.project_id, session.mode, session.room)
        bodies.append(_encode(sighting_event(session, name, over_ms, confirmed_ms)))
    return bodies
