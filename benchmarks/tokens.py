"""Measure tokens a second over HTTP, with 32 connections and one process each."""

import asyncio
import contextlib
from pathlib import Path

import httpx
import msgspec
from livekit import api as livekit_api

from benchmarks import processes
from benchmarks.load import Load, line, run
from benchmarks.machine import Spread
from benchmarks.processes import LIVEKIT, Site
from services.cli.projects import create_project
from shared.infra.settings import parse_database_url

_BODY = msgspec.json.encode({"room": "lobby", "identity": "ada", "ttl": 600})
_PATHS = {
    "relay": "/v1/tokens",
    "express": "/token",
    "next": "/api/token",
    "litestar + livekit-api": "/token",
    "empty": "/",
}


def measure(rounds: int, seconds: float) -> dict[str, dict[str, Spread]]:
    """Measure rates and p99 by server, in alternating rounds.

    Raises if a response is not a 2xx or a token is wrong.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(processes.scratch())
        running, env = stack.enter_context(processes.servers(directory))
        project = asyncio.run(create_project(parse_database_url(running.database_url), "bench"))
        key = next(key.key for key in project.keys if key.mode == "live" and key.type == "secret")
        sites = [stack.enter_context(processes.api(env, directory))]
        for name in ("express", "next"):
            sites.append(stack.enter_context(processes.node_peer(name, env, directory)))
        sites.append(
            stack.enter_context(processes.uvicorn_peer("litestar + livekit-api", "litestar_livekit", env, directory))
        )
        sites.append(stack.enter_context(processes.uvicorn_peer("empty", "empty", env, directory)))
        requests = directory / "requests"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        requests.write_bytes(line(headers, _BODY))
        for site in sites:
            _check(site, headers)
            run(site.url + _PATHS[site.name], requests, seconds=1)  # warms caches and compilers
        found: dict[str, list[Load]] = {site.name: [] for site in sites}
        for number in range(rounds):
            for site in sites if number % 2 == 0 else reversed(sites):
                load = run(site.url + _PATHS[site.name], requests, seconds=seconds)
                if load.wrong:
                    raise RuntimeError(f"{site.name}: {load.wrong} answers were not 2xx; nothing is reported")
                found[site.name].append(load)
            for site in sites:
                _check(site, headers)
    return {name: spreads(loads) for name, loads in found.items()}


def spreads(loads: list[Load]) -> dict[str, Spread]:
    return {
        "per_second": Spread(tuple(load.per_second for load in loads)),
        "p99_ms": Spread(tuple(load.p99_ms for load in loads)),
    }


def _check(site: Site, headers: dict[str, str]) -> None:
    answer = httpx.post(site.url + _PATHS[site.name], content=_BODY, headers=headers, trust_env=False)
    answer.raise_for_status()
    if site.name == "empty":
        return
    claims = livekit_api.TokenVerifier(LIVEKIT["LIVEKIT_API_KEY"], LIVEKIT["LIVEKIT_API_SECRET"]).verify(
        answer.json()["token"]
    )
    if claims.identity != "ada" or claims.video is None or not claims.video.room_join:
        raise RuntimeError(f"{site.name} returned a token without the requested claims")


def requests_file(directory: Path, lines: list[bytes]) -> Path:
    path = directory / "requests"
    path.write_bytes(b"".join(lines))
    return path
