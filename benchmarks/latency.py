"""Measure the time from a webhook until usage shows it, while 2,000 other events a second arrive.

One API process and one worker run.
"""

import asyncio
import contextlib
import random
import statistics
import time

import httpx

from benchmarks import processes
from benchmarks.machine import Spread
from benchmarks.paced import Paced, request
from benchmarks.processes import LIVEKIT
from benchmarks.webhooks import bodies
from services.cli.projects import create_project
from services.cli.simulate.traffic import make_meeting
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl, parse_database_url
from shared.livekit.webhook import WebhookSigner
from shared.models.projects import CreatedProject

PATH = "/api/webhooks/livekit"
_EVERY_S = 0.25
_POLL_S = 0.005
_VISIBLE_WITHIN_S = 30.0


def measure(rounds: int, rate: int = 2000, seconds: float = 15) -> dict[str, Spread]:
    """Measure p50 and p99 in ms by round. Raises if an event was refused or lost."""
    found = [asyncio.run(_round(rate, seconds)) for _ in range(rounds)]
    return {
        "p50_ms": Spread(tuple(statistics.median(delays) for delays in found)),
        "p99_ms": Spread(tuple(statistics.quantiles(delays, n=100)[98] for delays in found)),
    }


async def _round(rate: int, seconds: float) -> list[float]:
    signer = WebhookSigner(LIVEKIT["LIVEKIT_API_KEY"], LIVEKIT["LIVEKIT_API_SECRET"])
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(processes.scratch())
        running, env = stack.enter_context(processes.servers(directory))
        database = parse_database_url(running.database_url)
        crowd, watched = [await create_project(database, name) for name in ("crowd", "watched")]
        site = stack.enter_context(processes.api(env, directory))
        stack.enter_context(processes.worker(env, directory))
        events = bodies(crowd.project_id, int(rate * seconds))
        now_s = int(time.time())
        paced = Paced(site.url, [request(PATH, body, signer.sign(body, now_s=now_s)) for body in events])
        async with asyncio.TaskGroup() as tasks:
            crowding = tasks.create_task(paced.run(rate))
            delays = await _watch(site.url, watched, signer, seconds)
            await crowding
        if paced.refused:
            raise RuntimeError(f"{paced.refused} of {len(events)} events were refused; nothing is reported")
        await _all_stored(database, crowd.project_id, len(events))
        return delays


async def _all_stored(database: DatabaseUrl, project_id: str, count: int) -> None:
    conn, deadline = await connect(database), time.monotonic() + _VISIBLE_WITHIN_S
    try:
        while (stored := await conn.fetchval("SELECT count(*) FROM event WHERE project_id = $1", project_id)) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count} events were acknowledged, {stored} are stored; nothing is reported")
            await asyncio.sleep(0.05)
    finally:
        await conn.close()


async def _watch(url: str, project: CreatedProject, signer: WebhookSigner, seconds: float) -> list[float]:
    """Send the events of one session from time to time, and read usage until it shows them.

    Returns the milliseconds of each.
    """
    key = next(key.key for key in project.keys if key.mode == "live" and key.type == "secret")
    delays: list[float] = []
    expected_ms, until = 0, time.monotonic() + seconds - 1
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        while time.monotonic() < until:
            now_ms = time.time_ns() // 1_000_000
            meeting = make_meeting(
                random.Random(len(delays) + 10**6),
                project.project_id,
                "live",
                f"w{len(delays)}",
                1,
                now_ms - 60_000,
                now_ms,
            )
            expected_ms += sum(stay.end_ms - stay.start_ms for stay in meeting.stays)
            for event in meeting.events:
                headers = {
                    "Authorization": signer.sign(event.body, now_s=now_ms // 1000),
                    "Content-Type": "application/webhook+json",
                }
                (await client.post(PATH, content=event.body, headers=headers)).raise_for_status()
            sent = time.perf_counter()
            while True:
                answer = await client.get("/v1/usage?period=7d", headers={"Authorization": f"Bearer {key}"})
                answer.raise_for_status()
                if answer.json()["totals"]["participantMinutes"] * 60_000 > expected_ms - 1:
                    break
                if time.perf_counter() - sent > _VISIBLE_WITHIN_S:
                    raise RuntimeError("an event did not become visible; nothing is reported")
                await asyncio.sleep(_POLL_S)
            delays.append((time.perf_counter() - sent) * 1000)
            await asyncio.sleep(_EVERY_S)
    return delays
