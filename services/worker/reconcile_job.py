"""Run reconciliation (``shared/ledger/reconcile.py``) as a periodic job."""

import logging

from services.worker.periodic import JobContext
from shared.ledger.reconcile import reconcile
from shared.livekit.room_service import RoomService

log = logging.getLogger("relay.worker")

# A pass that takes longer is cancelled. Its corrections so far stay, and the next pass continues.
LIMIT_S = 300.0


async def reconcile_on_schedule(context: JobContext, now_ms: int) -> None:
    """Run the periodic job. Raises the ``LiveKitError`` of a failed pass, which is recorded."""
    settings = context.settings
    service = RoomService(
        settings.livekit_api_url, settings.livekit_api_key, settings.livekit_api_secret, context.clock
    )
    async with service:
        report = await reconcile(context.pool, service, context.clock)
    done = report.done
    if done.opened or done.closed or done.corrected or done.rooms_failed or done.unproven:
        log.info(
            "reconciled %d participants in %d rooms: %d opened, %d corrected, %d closed; %d rooms could not be asked,"
            " %d participants are listed but not connected",
            done.participants,
            done.rooms,
            done.opened,
            done.corrected,
            done.closed,
            done.rooms_failed,
            done.unproven,
        )
