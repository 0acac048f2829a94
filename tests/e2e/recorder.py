"""A proxy between LiveKit and Relay that records every webhook unchanged."""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web


class Webhook(NamedTuple):
    """One delivery. ``received_ms`` is the time on this machine."""

    headers: dict[str, str]
    body: bytes
    received_ms: int


class Recorder:
    """Forwards webhooks to ``target`` and returns its responses. While ``blocked`` is not 0, it answers with that status."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.blocked = 0
        self.webhooks: list[Webhook] = []
        self.answers: list[int] = []

    def events(self) -> list[dict[str, Any]]:
        """Return the decoded bodies."""
        return [json.loads(webhook.body) for webhook in self.webhooks]

    def write(self, path: Path) -> None:
        """Write the recording as a fixture."""
        recording = [
            {
                "headers": webhook.headers,
                "bodyBase64": base64.b64encode(webhook.body).decode(),
                "receivedMs": webhook.received_ms,
            }
            for webhook in self.webhooks
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recording, indent=1) + "\n")


@asynccontextmanager
async def recording(port: int, target: str) -> AsyncIterator[Recorder]:
    """Run a recorder on 127.0.0.1 until the block ends."""
    recorder = Recorder(target)
    async with aiohttp.ClientSession() as client:

        async def forward(request: web.Request) -> web.Response:
            body = await request.read()
            if recorder.blocked:
                return web.Response(status=recorder.blocked)
            headers = {name: request.headers.get(name, "") for name in ("authorization", "content-type")}
            recorder.webhooks.append(Webhook(headers, body, time.time_ns() // 1_000_000))
            try:
                async with client.post(recorder.target, data=body, headers=headers) as answer:
                    recorder.answers.append(answer.status)
                    return web.Response(status=answer.status, body=await answer.read())
            except aiohttp.ClientConnectionError:
                return web.Response(status=502)

        app = web.Application()
        app.router.add_post("/", forward)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            recorder.url = f"http://127.0.0.1:{port}/"
            yield recorder
        finally:
            await runner.cleanup()
