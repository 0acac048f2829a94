"""Send requests to LiveKit's Twirp API over one pooled session, each with a short-lived token."""

import asyncio
import random
import time
from typing import Any, TypeVar

import aiohttp
from google.protobuf.message import Message
from livekit.api.twirp_client import TwirpClient

from shared.errors import (
    LiveKitAnswerTooLarge,
    LiveKitFailed,
    LiveKitServiceAbsent,
    LiveKitUnreachable,
    RelayError,
)
from shared.infra import metrics
from shared.infra.clock import Clock
from shared.livekit.access_token import TokenSigner
from shared.livekit.bounded_answers import BoundedAnswers
from shared.livekit.twirp_errors import relay_errors

# LiveKit allows a minute of clock skew, and a token is used for one request only.
_TOKEN_TTL_S = 60
_NOT_BEFORE_LEEWAY_S = 10
_MAX_CONNECTIONS = 50
# Shorter than the idle time-out of common proxies (60 s and more), so that no request is sent on a closing connection.
_KEEPALIVE_S = 15.0
_RETRY_WITHIN_S = 0.3

Answer = TypeVar("Answer", bound=Message)


class TwirpCalls:
    """Calls the API of one LiveKit. ``open`` and ``close`` it on the event loop that uses it.

    ``grants`` of a call are the video grants of its token. ``missing`` is the error to raise if LiveKit answers that what the
    call names does not exist. All calls raise a ``LiveKitError`` if they fail.
    """

    def __init__(
        self, url: str, signer: TokenSigner, clock: Clock, timeout: aiohttp.ClientTimeout, answers: BoundedAnswers
    ) -> None:
        self._url, self._signer, self._clock = url, signer, clock
        self._timeout, self._answers = timeout, answers
        self._session: aiohttp.ClientSession | None = None
        self._twirp: TwirpClient | None = None

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, response_class=self._answers.response_class()
        )
        # The client's failover also repeats calls that change something, and works only with LiveKit Cloud.
        self._twirp = TwirpClient(self._session, self._url, "livekit", failover=False)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = self._twirp = None

    async def call_with_retry(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Answer],
        missing: Exception | None = None,
    ) -> Answer:
        """Send a request that changes nothing. Repeat it once if LiveKit is unreachable or fails."""
        try:
            return await self.call(service, method, request, grants, answer_type, missing)
        except (LiveKitServiceAbsent, LiveKitAnswerTooLarge):
            raise
        except (LiveKitUnreachable, LiveKitFailed):
            await asyncio.sleep(random.uniform(0.1, 1) * _RETRY_WITHIN_S)  # noqa: S311  # spreads load, not for security
        return await self.call(service, method, request, grants, answer_type, missing)

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Answer],
        missing: Exception | None = None,
    ) -> Answer:
        """Send a request once: LiveKit may have carried it out even if the answer was lost."""
        started, outcome = time.perf_counter(), "ok"
        try:
            return await self._send(service, method, request, grants, answer_type, missing)
        except RelayError as error:
            outcome = type(error).__name__
            raise
        finally:
            metrics.livekit_seconds.labels(method, outcome).observe(time.perf_counter() - started)

    async def _send(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Answer],
        missing: Exception | None,
    ) -> Answer:
        if self._twirp is None:
            raise RuntimeError("use the room service inside `async with`")
        now_s = self._clock.now_ms() // 1000 - _NOT_BEFORE_LEEWAY_S
        token = self._signer.sign({"video": grants}, now_s=now_s, ttl_s=_TOKEN_TTL_S + _NOT_BEFORE_LEEWAY_S)
        headers = {"authorization": f"Bearer {token}"}
        with relay_errors(missing):
            return await self._twirp.request(service, method, request, headers, answer_type, timeout=self._timeout)
