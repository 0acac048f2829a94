"""Replay or dismiss set-aside events, for the command line and the portal.

Every function takes a connection inside the caller's transaction. A replay works as if LiveKit had sent the event again: the
event goes through the inbox to the worker, which checks it at the time of the replay. If it still cannot be used, the worker
sets it aside again with a new id.
"""

from collections.abc import Sequence

from shared.errors import SetAsideEventNotFound
from shared.events.queries import events as event_queries
from shared.events.queries import set_aside as queries
from shared.infra.postgres.pool import Connection
from shared.infra.redis import event_stream
from shared.models.received import Received
from shared.models.set_aside import SetAsideEvent

# Bodies held in memory at once; each can be 1 MiB.
CHUNK = 100


async def replay(conn: Connection, ids: Sequence[int], now_ms: int, *, at_once: int = CHUNK) -> None:
    """Send these events to the fold again. Raises ``SetAsideEventNotFound`` if one does not exist.

    In that case nothing changes.
    """
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), at_once):
        chunk = wanted[start : start + at_once]
        taken = await queries.take_set_aside(conn, chunk)
        _all_there(chunk, taken)
        await _put_in_inbox(conn, taken, now_ms)


async def replay_all(conn: Connection, now_ms: int, reason: str | None = None, *, at_once: int = CHUNK) -> int:
    """Send all events that are set aside now (for this reason) to the fold again. Return the number."""
    count, newest = 0, await queries.newest_set_aside(conn)
    while newest is not None:
        taken = await queries.take_oldest_set_aside(conn, reason=reason, up_to_id=newest, limit=at_once)
        if not taken:
            break
        await _put_in_inbox(conn, taken, now_ms)
        count += len(taken)
    return count


async def dismiss(conn: Connection, ids: Sequence[int]) -> None:
    """Delete these events for good. Raises ``SetAsideEventNotFound`` if one does not exist.

    In that case nothing changes.
    """
    wanted = sorted(set(ids))
    _all_there(wanted, await queries.take_set_aside(conn, wanted))


def _all_there(ids: Sequence[int], found: Sequence[SetAsideEvent]) -> None:
    for missing in sorted(set(ids) - {event.id for event in found}):
        raise SetAsideEventNotFound(missing)


async def _put_in_inbox(conn: Connection, taken: Sequence[SetAsideEvent], now_ms: int) -> None:
    # The time of receipt is now. So a past day that changes gets a late change, and an event that was set aside because its
    # time was in the future may be plausible now.
    entries = [(event_stream.partition_of(event.body), Received(now_ms, event.body)) for event in taken]
    await event_queries.put_in_inbox(conn, entries)
