"""Measure memory during a long steady load: `python -m benchmarks.steady --minutes 60`.

It shows memory that grows with the number of events, a stream that is not emptied, and a table that grows faster than its
events. One api and one worker run, and everything is synced to disk.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Iterator

import asyncpg
import httpx

from benchmarks import processes
from benchmarks.machine import console, describe, memory
from benchmarks.paced import Paced, request
from benchmarks.processes import LIVEKIT
from services.cli.projects import create_project
from services.cli.simulate.traffic import make_meeting
from services.local.embedded import EmbeddedServers
from shared.infra.redis import event_stream
from shared.infra.settings import parse_database_url
from shared.livekit.webhook import WebhookSigner
from shared.models.projects import CreatedProject

_PATH = "/api/webhooks/livekit"
_SLICE_S = 10
_QUERIES_A_SLICE = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.steady", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="(default: %(default)s)")
    parser.add_argument("--events", type=int, default=300, help="a second (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=100, help="a second (default: %(default)s)")
    return asyncio.run(_run(parser.parse_args()))


async def _run(arguments: argparse.Namespace) -> int:
    console.print(describe())
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(processes.scratch())
        running, env = stack.enter_context(processes.servers(directory))
        project = await create_project(parse_database_url(running.database_url), "steady")
        site = stack.enter_context(processes.api(env, directory))
        worker = stack.enter_context(processes.worker(env, directory))
        traffic = _Traffic(project, WebhookSigner(LIVEKIT["LIVEKIT_API_KEY"], LIVEKIT["LIVEKIT_API_SECRET"]))
        started, next_line, sent, refused = time.monotonic(), 60.0, 0, 0
        console.print(
            "minute, events stored of sent, refused, MiB (RSS/PSS/USS) of api, of worker, of Redis, in streams, database MB, "
            "bytes an event"
        )
        while (passed := time.monotonic() - started) < arguments.minutes * 60 + 1:
            if passed >= next_line:
                await _print_line(running, int(next_line // 60), sent, refused, site.pid, worker)
                next_line += 60
            began = time.monotonic()
            events = Paced(site.url, traffic.events(arguments.events * _SLICE_S))
            tokens = Paced(site.url, traffic.tokens(arguments.tokens * _SLICE_S), connections=4)
            await asyncio.gather(
                events.run(arguments.events), tokens.run(arguments.tokens), traffic.queries(site.url, _QUERIES_A_SLICE)
            )
            sent += arguments.events * _SLICE_S
            refused += events.refused + tokens.refused
            await asyncio.sleep(max(0.0, _SLICE_S - (time.monotonic() - began)))
        await _print_line(running, int(arguments.minutes), sent, refused, site.pid, worker)
    return 1 if refused else 0


class _Traffic:
    """Yield meetings forever, each in a new room. Each has ended when it is sent."""

    def __init__(self, project: CreatedProject, signer: WebhookSigner) -> None:
        self._project, self._signer = project, signer
        self._key = next(key.key for key in project.keys if key.mode == "live" and key.type == "secret")
        self._bodies = self._meetings()

    def _meetings(self) -> Iterator[bytes]:
        rng, number = random.Random(1), 0
        while True:
            now_ms = time.time_ns() // 1_000_000
            meeting = make_meeting(
                rng, self._project.project_id, "live", f"room-{number % 500}", 8, now_ms - 900_000, now_ms - 1000
            )
            yield from (event.body for event in meeting.events)
            number += 1

    def events(self, count: int) -> list[bytes]:
        now_s = int(time.time())
        bodies = [next(self._bodies) for _ in range(count)]
        return [request(_PATH, body, self._signer.sign(body, now_s=now_s)) for body in bodies]

    def tokens(self, count: int) -> list[bytes]:
        body = b'{"room": "lobby", "identity": "ada"}'
        one = request("/v1/tokens", body, f"Bearer {self._key}")
        return [one.replace(b"application/webhook+json", b"application/json")] * count

    async def queries(self, url: str, count: int) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
            for _ in range(count):
                (await client.get("/v1/usage")).raise_for_status()
                await asyncio.sleep(_SLICE_S / count / 2)


async def _print_line(
    running: EmbeddedServers, minute: int, sent: int, refused: int, api_pid: int, worker_pid: int
) -> None:
    redis = event_stream.connect_redis(running.redis_url)
    lengths = await event_stream.lengths(redis)
    await redis.aclose()
    conn = await asyncpg.connect(parse_database_url(running.database_url).dsn)
    size = await conn.fetchval("SELECT pg_database_size(current_database())")
    stored = await conn.fetchval("SELECT count(*) FROM event")
    await conn.close()
    console.print(
        f"{minute:6}   {stored:6,} of {sent:,}   {refused}   {memory(api_pid)}   {memory(worker_pid)}"
        f"   {memory(running.redis_pid)}   {sum(lengths)}   {size / 1e6:.1f}   {size / max(1, stored):.0f}",
        markup=False,
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
