"""Compare one API process with two, and one worker with two, by processor time a request.

Each has 32 connections. On two cores, the load generator and the servers leave no core for a second process, so the benchmark
measures processor time and not the rate. The cost of a request must not rise with the number of processes. Redis and Postgres,
which all processes share, limit the number of processes.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import redis

from benchmarks import processes
from benchmarks.fold import Folded, fold_by
from benchmarks.load import line, run
from benchmarks.machine import Spread, cpu_us, resident_mib
from benchmarks.processes import LIVEKIT, Site
from benchmarks.tokens import requests_file
from benchmarks.webhooks import bodies
from services.cli.projects import create_project
from services.local.embedded import EmbeddedServers
from shared.infra.settings import parse_database_url
from shared.livekit.webhook import WebhookSigner

COUNTS = (1, 2)
_EVENTS = 20_000
PATHS = {"tokens": "/v1/tokens", "webhooks": "/api/webhooks/livekit"}


UNITS = {"api": "µs", "redis": "µs", "postgres": "µs", "group": "webhooks an append", "mib": "the largest API"}


WORKER_UNITS = {
    "per_second": "events",
    "worker": "µs an event",
    "postgres": "µs",
    "redis": "µs",
    "waiting": "part of the time",
    "mib": "the largest worker",
}


class ProcessCost(NamedTuple):
    """Processor time, batch size and memory of one measurement.

    Processor time is in microseconds a request: all API processes together, Redis, Postgres. The batch size is the number of
    webhooks in one synced append. Memory is that of the largest API process at the end, in MiB.
    """

    api: float
    redis: float
    postgres: float
    group: float
    mib: float


def measure(rounds: int, seconds: float) -> dict[str, dict[str, Spread]]:
    """Measure by path and number of processes. Raises if a response is not a 2xx."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(processes.scratch())
        running, env = stack.enter_context(processes.servers(directory))
        project = asyncio.run(create_project(parse_database_url(running.database_url), "bench"))
        key = next(key.key for key in project.keys if key.mode == "live" and key.type == "secret")
        sites = [stack.enter_context(processes.api(env, directory, f"relay{number}")) for number in range(max(COUNTS))]
        events = bodies(project.project_id, _EVENTS)
        lines: dict[str, Callable[[], list[bytes]]] = {
            "tokens": lambda: token(key),
            "webhooks": lambda: webhooks(events),
        }
        client = redis.Redis.from_url(running.redis_url)
        found: dict[str, list[ProcessCost]] = {f"{path}, {count}": [] for path in PATHS for count in COUNTS}
        for number in range(rounds + 1):  # the first round warms up
            for path, make in lines.items():
                requests = requests_file(directory, make())
                for count in COUNTS if number % 2 == 0 else reversed(COUNTS):
                    client.flushall()
                    cost = _cost(running, sites[:count], path, requests, seconds if number else 1)
                    if number:
                        found[f"{path}, {count}"].append(cost)
    return {name: _spreads(costs) for name, costs in found.items()}


def _cost(running: EmbeddedServers, sites: list[Site], path: str, requests: Path, seconds: float) -> ProcessCost:
    shared: list[Callable[[], float]] = [
        lambda: sum(cpu_us(site.pid) for site in sites),
        lambda: cpu_us(running.redis_pid),
        lambda: cpu_us(running.postgres_pid),
    ]
    before, appends = [measured() for measured in shared], sum(map(_appends, sites))
    with ThreadPoolExecutor(len(sites)) as threads:
        loads = list(threads.map(lambda site: run(site.url + PATHS[path], requests, seconds=seconds), sites))
    if wrong := sum(load.wrong for load in loads):
        raise RuntimeError(f"{path}: {wrong} answers were not 2xx; nothing is reported")
    time.sleep(0.5)  # the API writes its counts to Redis four times a second
    answers = sum(load.ok for load in loads)
    api, in_redis, postgres = [(measured() - was) / answers for measured, was in zip(shared, before, strict=True)]
    group = answers / max(1, sum(map(_appends, sites)) - appends) if path == "webhooks" else 0
    return ProcessCost(api, in_redis, postgres, group, max(resident_mib(site.pid) for site in sites))


def _appends(site: Site) -> int:
    told = httpx.get(f"{site.url}/metrics", trust_env=False).text
    counted = re.search(r"^relay_intake_group_events_count (\S+)$", told, re.MULTILINE)
    return int(float(counted[1])) if counted else 0


def token(key: str) -> list[bytes]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return [line(headers, msgspec.json.encode({"room": "lobby", "identity": "ada", "ttl": 600}))]


def webhooks(events: list[bytes]) -> list[bytes]:
    signer, now_s = WebhookSigner(LIVEKIT["LIVEKIT_API_KEY"], LIVEKIT["LIVEKIT_API_SECRET"]), int(time.time())
    return [
        line({"Content-Type": "application/webhook+json", "Authorization": signer.sign(body, now_s=now_s)}, body)
        for body in events
    ]


def _spreads(costs: list[ProcessCost]) -> dict[str, Spread]:
    return {name: Spread(values) for name, values in zip(ProcessCost._fields, zip(*costs, strict=True), strict=True)}


def measure_workers(rounds: int, events: int = 100_000) -> dict[str, dict[str, Spread]]:
    """Measure the fold by one worker and by two."""
    found: dict[int, list[Folded]] = {count: [] for count in COUNTS}
    for number in range(rounds):
        for count in COUNTS if number % 2 == 0 else reversed(COUNTS):
            with processes.scratch() as directory:
                found[count].append(fold_by(count, directory, events, number))
    return {
        str(count): {
            name: Spread(values) for name, values in zip(Folded._fields, zip(*costs, strict=True), strict=True)
        }
        for count, costs in found.items()
    }
