"""Two API processes with fixed ports behind a balancer, two workers, and the requests of clients."""

import asyncio
import itertools
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.cli.simulate.run import Traffic
from services.local.up import service
from shared.infra.redis import event_stream
from shared.infra.settings import Settings, inherited_environment
from shared.livekit.webhook import WebhookSigner
from tests.e2e.balanced_load import Balancer, Wanted
from tests.ports import free_port

STOP_WITHIN_S = 40.0
_FOLDED_WITHIN_S = 120.0


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Return the environment of a process with these settings."""
    return inherited_environment(
        {
            "DATABASE_URL": settings.database.dsn,
            "REDIS_URL": settings.redis_url,
            "REDIS_STREAMS_URL": settings.redis_streams_url or "",
            "LIVEKIT_URL": settings.livekit_url,
            "LIVEKIT_API_KEY": settings.livekit_api_key,
            "LIVEKIT_API_SECRET": settings.livekit_api_secret,
            "AUTH_SECRET": settings.auth_secret,
            "RELAY_API_URL": settings.relay_api_url,
            "RECONCILE_INTERVAL_SECONDS": "0",
            "RELAY_HOST": "127.0.0.1",
            **more,
        }
    )


class Fleet:
    """The four processes. They end with the thread that starts them, so it must outlive them."""

    names = ("api-0", "api-1", "worker-0", "worker-1")

    def __init__(self, settings: Settings, log: Path, drain_s: int) -> None:
        self._settings, self._log, self._drain_s = settings, log, drain_s
        self.ports = [free_port(), free_port()]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.slowest_stop_s = 0.0
        self.exit_codes: set[int] = set()

    def start(self, name: str) -> None:
        kind, number = name.split("-")
        own = {"PORT": str(self.ports[int(number)])} if kind == "api" else {}
        child = service(name, kind, environment_of(self._settings, DRAIN_SECONDS=str(self._drain_s), **own))
        with self._log.open("ab") as log:
            self._processes[name] = subprocess.Popen(child.argv, stdout=log, stderr=log, **child.options())

    async def stop(self, name: str) -> None:
        """Send SIGTERM and record the exit code. Raises if the process does not stop in time."""
        process, started = self._processes[name], time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.exit_codes.add(await asyncio.to_thread(process.wait, STOP_WITHIN_S))
        self.slowest_stop_s = max(self.slowest_stop_s, time.monotonic() - started)

    def kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@asynccontextmanager
async def fleet(settings: Settings, log: Path, drain_s: int = 1) -> AsyncIterator[tuple[Fleet, Balancer]]:
    """Run all four processes until they are ready.

    ``drain_s`` must be longer than the balancer takes to notice a stop, as in production. That is long on busy processors.
    """
    running = Fleet(settings, log, drain_s)
    balancer = Balancer(running.ports)
    watching = asyncio.create_task(balancer.run())
    try:
        for name in running.names:
            running.start(name)
        await balancer.wait(2)
        yield running, balancer
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        running.kill_all()


def request(path: str, body: bytes, authorization: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: relay\r\nauthorization: {authorization}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def webhooks(settings: Settings, traffic: Traffic) -> Iterator[Wanted]:
    """Yield the webhooks. Each is signed when it is sent, because a signature is valid for five minutes."""
    signer = WebhookSigner(settings.livekit_api_key, settings.livekit_api_secret)
    for event in traffic.events:
        signature = signer.sign(event.body, now_s=int(time.time()))
        yield Wanted("webhooks", request("/api/webhooks/livekit", event.body, signature), repeated=True)


def mints(key: str) -> Iterator[Wanted]:
    data = request("/v1/tokens", b'{"room":"lobby","identity":"ann"}', f"Bearer {key}")
    return itertools.repeat(Wanted("tokens", data, repeated=False))


async def folded(settings: Settings) -> None:
    """Wait until every event in the streams is folded."""
    redis = event_stream.connect_streams(settings)
    deadline = time.monotonic() + _FOLDED_WITHIN_S
    try:
        while await event_stream.oldest_unfolded_ms(redis) is not None:
            assert time.monotonic() < deadline, "events still wait for the fold"
            await asyncio.sleep(0.1)
    finally:
        await redis.aclose()
