"""Receive LiveKit's webhooks at `POST /api/webhooks/livekit`.

A handler verifies the raw bytes, stores them and answers 200. The body is not interpreted here. LiveKit never repeats an event
after a 4xx, so no signed event is refused.
"""

import asyncio
from typing import Annotated, Any

from litestar import post
from litestar.connection import Request
from litestar.di import NamedDependency
from litestar.params import RawBody
from msgspec import Meta

from services.api.http.openapi import described
from services.api.http.serving.hot_routes import HotRoute, Waiting, header
from services.api.webhooks.intake import Intake
from shared.errors import WebhookRefused
from shared.infra import metrics, tracing
from shared.infra.clock import Clock
from shared.livekit.webhook import WebhookVerifier
from shared.models.received import Received
from shared.models.wire import Wire

PATH = "/api/webhooks/livekit"
# LiveKit's largest event: twice 512 KiB of metadata and 64 KiB of attributes, each byte escaped as six.
BODY_LIMIT = 8 * 1024 * 1024
_KEPT = b'{"received":true}'


class WebhookAnswer(Wire):
    """The event is stored."""

    received: Annotated[bool, Meta(description="Always true.")]


class WebhookReceiver:
    """Verifies webhooks and passes them to the intake."""

    def __init__(self, verifier: WebhookVerifier, intake: Intake, clock: Clock) -> None:
        self._verifier, self._intake, self._clock = verifier, intake, clock

    def check(self, authorization: str | None) -> None:
        """Check the signature before the body has arrived. Raises ``WebhookRefused`` (401)."""
        try:
            self._verifier.check(authorization, now_s=self._clock.now_ms() / 1000)
        except WebhookRefused as refusal:
            _count(refusal)
            raise

    def is_signed(self, authorization: str | None) -> bool:
        """Return whether ``check`` would pass. Counts nothing."""
        try:
            self._verifier.check(authorization, now_s=self._clock.now_ms() / 1000)
        except WebhookRefused:
            return False
        return True

    def receive(self, body: bytes, authorization: str | None) -> "asyncio.Future[None]":
        """Verify and store a webhook. Return a future that is done when the event is stored.

        Raises ``WebhookRefused`` (401). ``EventNotKept`` (503) is raised at once or by the future.
        """
        now_ms = self._clock.now_ms()
        try:
            self._verifier.verify(body, authorization, now_s=now_ms / 1000)
        except WebhookRefused as refusal:
            _count(refusal)
            raise
        return self._intake.keep(Received(now_ms, body, tracing.current_context()))


@post(
    PATH,
    operation_id="receiveLiveKitWebhook",
    tags=["webhooks"],
    status_code=200,
    summary="Receive an event from LiveKit",
    description="Set LiveKit's `webhook.urls` to this address. Answers 200 once the event is stored.",
    security=[{"livekitSignature": []}],
    request_max_body_size=BODY_LIMIT,
    opt=described(
        errors=(
            "no_secret",
            "missing_signature",
            "malformed_signature",
            "bad_signature",
            "wrong_api_key",
            "expired",
            "not_yet_valid",
            "body_mismatch",
            "payload_too_large",
            "event_not_kept",
        ),
        takes="application/webhook+json",
    ),
)
async def receive_webhook(
    body: RawBody, request: Request[Any, Any, Any], receiver: NamedDependency[WebhookReceiver]
) -> WebhookAnswer:
    """Receive a webhook. Normally ``webhook_route`` answers first; this route also describes it."""
    await receiver.receive(body, request.headers.get("authorization"))
    return WebhookAnswer(received=True)


def _count(refusal: WebhookRefused) -> None:
    # The probe of `relay doctor` is counted separately, so that it does not look like an attack or a wrong clock.
    is_probe = refusal.code == "expired" and refusal.signs_probe
    metrics.webhooks["probe" if is_probe else refusal.code].count += 1


def webhook_route(receiver: WebhookReceiver) -> HotRoute:
    """Return the hot route of webhooks. Its functions raise what ``WebhookReceiver`` raises."""

    def at_headers(scope: Any) -> bool:
        receiver.check(header(scope, b"authorization"))
        return True

    async def admit(scope: Any) -> None:
        at_headers(scope)

    async def receive_webhook(scope: Any, body: bytes) -> bytes:
        await receiver.receive(body, header(scope, b"authorization"))
        return _KEPT

    def receive_at_once(scope: Any, body: bytes) -> Waiting:
        return Waiting(receiver.receive(body, header(scope, b"authorization")), _KEPT)

    return HotRoute(admit, receive_webhook, at_headers, receive_at_once, BODY_LIMIT)
