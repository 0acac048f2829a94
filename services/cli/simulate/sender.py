"""Send events like LiveKit's own sender (livekit/protocol, webhook/resource_url_notifier.go).

Each room has a serial queue of 200 events. A full queue drops the newest event, and an event that waited over 30 s is
dropped too. A connection error, 429 or 5xx except 501 is retried after 1, 2, 4 and 8 s. Any other answer is final.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable

import httpx
import msgspec

from services.cli.simulate.traffic import Event
from services.cli.simulate.traffic_options import MAX_WAIT_S, QUEUE_DEPTH
from shared.livekit.webhook import WebhookSigner

PATH = "/api/webhooks/livekit"
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0)


class Counts(msgspec.Struct, rename="camel"):
    """Numbers of events by their outcome. ``sent`` counts requests, including retries."""

    generated: int = 0
    lost: int = 0
    duplicated: int = 0
    sent: int = 0
    acknowledged: int = 0
    retried: int = 0
    refused: int = 0
    given_up: int = 0
    dropped_queue_full: int = 0
    dropped_too_old: int = 0


class Queueing(msgspec.Struct, rename="camel"):
    """The longest queue in events, the longest wait in ms, and times to acknowledgement in ms.

    The time to acknowledgement is that of the last request, without earlier tries.
    """

    deepest: int
    longest_wait_ms: float
    acknowledged_p50_ms: float
    acknowledged_p99_ms: float
    acknowledged_max_ms: float


class Sender:
    """One queue a room. Without ``paced`` nothing is dropped, and ``offer`` waits for space instead."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        signer: WebhookSigner,
        *,
        concurrency: int,
        paced: bool,
        depth: int = QUEUE_DEPTH,
        max_wait_s: float = MAX_WAIT_S,
        delays_s: tuple[float, ...] = RETRY_DELAYS_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = Counts()
        self.last_error = ""
        self._depth, self._max_wait_s = depth, max_wait_s
        self._deepest, self._longest_wait_s = 0, 0.0
        # Counted by tenths of a millisecond, so that a run of any length fits into memory.
        self._tenths: Counter[int] = Counter()
        self._client, self._signer, self._paced, self._delays_s, self._sleep = client, signer, paced, delays_s, sleep
        self._queues: defaultdict[str, deque[tuple[float, Event]]] = defaultdict(deque)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self._space = asyncio.Semaphore(concurrency * 4)

    async def offer(self, event: Event) -> None:
        """Put an event into the queue of its room."""
        queue = self._queues[event.room]
        if self._paced and len(queue) >= self._depth:
            self.counts.dropped_queue_full += 1
            return
        if not self._paced:
            await self._space.acquire()
        queue.append((time.monotonic(), event))
        self._deepest = max(self._deepest, len(queue))
        if event.room not in self._running:
            self._running[event.room] = asyncio.create_task(self._drain(event.room))

    async def finish(self) -> None:
        """Wait until every queue is empty. Raises the error of a queue that failed."""
        while self._running:
            done, _ = await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def queueing(self) -> Queueing:
        """Summarise the queues of this run."""
        return Queueing(
            deepest=self._deepest,
            longest_wait_ms=round(self._longest_wait_s * 1000, 1),
            acknowledged_p50_ms=self._quantile(0.5),
            acknowledged_p99_ms=self._quantile(0.99),
            acknowledged_max_ms=max(self._tenths, default=0) / 10,
        )

    def _quantile(self, share: float) -> float:
        left = self._tenths.total() * share
        for tenths in sorted(self._tenths):
            left -= self._tenths[tenths]
            if left <= 0:
                return tenths / 10
        return 0.0

    async def _drain(self, room: str) -> None:
        queue = self._queues[room]
        try:
            while queue:
                offered, event = queue.popleft()
                waited_s = time.monotonic() - offered
                self._longest_wait_s = max(self._longest_wait_s, waited_s)
                if self._paced and waited_s > self._max_wait_s:
                    self.counts.dropped_too_old += 1
                    continue
                async with self._slots:
                    await self._deliver(event)
                if not self._paced:
                    self._space.release()
        finally:
            del self._running[room]

    async def _deliver(self, event: Event) -> None:
        # Signed once, like LiveKit: retries carry the same token.
        headers = {
            "Content-Type": "application/webhook+json",
            "Authorization": self._signer.sign(event.body, now_s=int(time.time())),
        }
        for delay_s in (*self._delays_s, None):
            self.counts.sent += 1
            retry_after_s = 0.0
            began = time.monotonic()
            try:
                answer = await self._client.post(PATH, content=event.body, headers=headers)
            except httpx.TransportError as error:
                self.last_error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if answer.status_code == 200:
                    self.counts.acknowledged += 1
                    self._tenths[min(int((time.monotonic() - began) * 10_000), 10**6)] += 1
                    return
                self.last_error = f"{answer.status_code} {answer.text[:300]}"
                if answer.status_code == 501 or (answer.status_code < 500 and answer.status_code != 429):
                    self.counts.refused += 1
                    return
                given = answer.headers.get("Retry-After", "")
                retry_after_s = float(given) if given.isdigit() and answer.status_code in (429, 503) else 0.0
            if delay_s is not None:
                self.counts.retried += 1
                await self._sleep(retry_after_s or delay_s)
        self.counts.given_up += 1
