"""Measure webhooks a second, verified and durably queued, with 32 connections and one process each.

Express only verifies them.
"""

import asyncio
import contextlib
import random
import time

import redis

from benchmarks import processes
from benchmarks.load import Load, line, run
from benchmarks.machine import Spread
from benchmarks.processes import LIVEKIT
from benchmarks.tokens import requests_file, spreads
from services.cli.projects import create_project
from services.cli.simulate.traffic import make_meeting
from shared.infra.redis import event_stream
from shared.infra.settings import parse_database_url
from shared.livekit.webhook import WebhookSigner

_PATHS = {"relay": "/api/webhooks/livekit", "express": "/webhook", "litestar + livekit-api": "/webhook"}
_EVENTS = 20_000


def bodies(project_id: str, count: int, seed: int = 7) -> list[bytes]:
    """Yield events of meetings that have just ended, room after room."""
    rng, now_ms = random.Random(seed), time.time_ns() // 1_000_000
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        meeting = make_meeting(rng, project_id, "live", f"r{number}", 12, now_ms - 600_000, now_ms - 2000)
        found += [event.body for event in meeting.events]
        number += 1
    return found[:count]


def measure(rounds: int, seconds: float) -> dict[str, dict[str, Spread]]:
    """Measure the rates. Raises if a response is not a 2xx, or Redis holds fewer events than acknowledged."""
    signer = WebhookSigner(LIVEKIT["LIVEKIT_API_KEY"], LIVEKIT["LIVEKIT_API_SECRET"])
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(processes.scratch())
        running, env = stack.enter_context(processes.servers(directory))
        project = asyncio.run(create_project(parse_database_url(running.database_url), "bench"))
        events = bodies(project.project_id, _EVENTS)
        sites = [stack.enter_context(processes.api(env, directory))]
        sites.append(stack.enter_context(processes.node_peer("express", env, directory)))
        sites.append(
            stack.enter_context(processes.uvicorn_peer("litestar + livekit-api", "litestar_livekit", env, directory))
        )
        client = redis.Redis.from_url(running.redis_url)
        found: dict[str, list[Load]] = {site.name: [] for site in sites}
        for number in range(rounds + 1):  # the first round warms up
            # Signed for every round, because a signature is valid for five minutes.
            now_s = int(time.time())
            content = {"Content-Type": "application/webhook+json"}
            requests = requests_file(
                directory, [line({**content, "Authorization": signer.sign(body, now_s=now_s)}, body) for body in events]
            )
            for site in sites if number % 2 == 0 else reversed(sites):
                client.flushall()
                load = run(site.url + _PATHS[site.name], requests, seconds=seconds if number else 1)
                kept = _kept(client, site.name)
                if load.wrong or (kept is not None and kept < load.ok):
                    raise RuntimeError(f"{site.name}: {load.wrong} wrong answers, {load.ok} acknowledged, {kept} kept")
                if number:
                    found[site.name].append(load)
    return {name: spreads(loads) for name, loads in found.items()}


def _kept(client: "redis.Redis", name: str) -> int | None:
    if name == "express":
        return None
    keys = ["peer:events"] if name != "relay" else map(event_stream.stream_key, range(event_stream.PARTITIONS))
    return sum(int(str(client.xlen(key))) for key in keys)
