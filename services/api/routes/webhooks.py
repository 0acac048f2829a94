"""`POST /api/webhooks/livekit`: verified on the raw bytes, kept, then 200. What is in the body is no matter here: LiveKit
never sends an event again after a 4xx, so nothing it signed is refused."""

from typing import Any

from services.api.hot_routes import Handler, header
from services.api.intake import Intake
from shared import metrics
from shared.clock import Clock
from shared.errors import WebhookRefused
from shared.livekit.webhook import WebhookVerifier
from shared.queries.events import Received

PATH = "/api/webhooks/livekit"
BODY_LIMIT = 1024 * 1024


def webhook_handler(verifier: WebhookVerifier, intake: Intake, clock: Clock) -> Handler:
    """Raises ``WebhookRefused`` (401), ``EventNotKept`` (503)."""

    async def receive_webhook(scope: Any, body: bytes) -> bytes:
        now_ms = clock.now_ms()
        try:
            verifier.verify(body, header(scope, b"authorization"), now_s=now_ms / 1000)
        except WebhookRefused as refusal:
            metrics.webhooks[refusal.reason].count += 1
            raise
        await intake.keep(Received(now_ms, body))
        return b'{"received":true}'

    return receive_webhook
