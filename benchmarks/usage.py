"""Measure usage queries, compared with aggregation in SQL, and with a large and a small history.

Both databases hold the same last 31 days, so that a query returns as much from both. Every day of a response is compared with
the sessions, to the millisecond. A difference stops the benchmark.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from benchmarks import history, machine, processes, usage_peer
from benchmarks.asking import Asker
from benchmarks.load import Load, line, run
from benchmarks.machine import Spread
from benchmarks.processes import Site
from benchmarks.usage_peer import UsageQuestion
from services.local.embedded import embedded_servers
from shared.infra.clock import DAY_MS
from shared.infra.migrations.migrate import migrate
from shared.infra.settings import parse_database_url

SMALL = 10_000
DAYS_30 = "usage?period=30d"
# Requests a second over one connection, far below what is possible.
PACE = 50
REQUESTS = 20
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "usage, 30 days": ("usage", {"period": "30d"}),
    "usage, today with its peak": ("usage", {"period": "today"}),
    "usage, one day by hour": ("usage", {"from": "{yesterday}", "to": "{today}", "granularity": "hour"}),
    "usage, 30 days by kind": ("usage", {"period": "30d", "groupBy": "kind"}),
    "usage, 30 days, 100 rooms": ("usage", {"period": "30d", "groupBy": "room"}),
    "usage, 30 days, 100 identities": ("usage", {"period": "30d", "groupBy": "identity"}),
    "usage, 7 days, top 10 rooms": ("usage", {"period": "7d", "groupBy": "room", "order": "minutes", "limit": 10}),
    "usage, all by month": ("usage", {"period": "all", "granularity": "month"}),
    "sessions, a page": ("sessions", {}),
    "sessions of a room": ("sessions", {"room": "room-17"}),
    "sessions of an identity": ("sessions", {"identity": "user-17"}),
    "sessions of a kind that nobody is": ("sessions", {"kind": "CONNECTOR"}),
    "events, a page": ("events", {}),
    "events of a room": ("events", {"room": "room-17"}),
}


class Side(NamedTuple):
    """An API on one of the databases."""

    site: Site
    key: str
    database_url: str

    def asker(self) -> Asker:
        return Asker(self.site.url, self.key)


def measure(rounds: int, seconds: float, sessions: int, directory: Path | None) -> dict[str, dict[str, Spread]]:
    """Print both comparisons, and return milliseconds and ratios of the first.

    ``directory`` keeps the servers' files, so that the next run finds the history.
    """
    with contextlib.ExitStack() as stack:
        home = directory or stack.enter_context(processes.scratch())
        home.mkdir(parents=True, exist_ok=True)
        # The history need not survive a crash of the machine.
        running = stack.enter_context(embedded_servers(home / "servers", fsync=False))
        sides = {}
        for name, size in (("small", SMALL), ("large", sessions)):
            url = running.database_url.replace("/relay?", f"/{name}?")
            key = prepared(running.database_url, url, name, size, home)
            env = {**processes.LIVEKIT, "DATABASE_URL": url, "REDIS_URL": running.redis_url, "AUTH_SECRET": "b" * 32}
            env |= {"RELAY_API_URL": "http://127.0.0.1", "RECONCILE_INTERVAL_SECONDS": "0", **processes.NEVER_REACHED}
            sides[name] = Side(stack.enter_context(processes.api(env, home, name)), key, url)
        found = _beside_sessions(sides["large"], rounds, seconds, sessions)
        _beside_small(sides, rounds, sessions)
    return found


def _beside_sessions(side: Side, rounds: int, seconds: float, sessions: int) -> dict[str, dict[str, Spread]]:
    to_ms = int(time.time()) // 86400 * DAY_MS + DAY_MS
    question = UsageQuestion(_project(side.database_url), to_ms - 30 * DAY_MS, to_ms)
    ours: dict[str, list[Load]] = {"1 connection, all the time": [], f"1 connection, {PACE}/s": [], "4 connections": []}
    peers: dict[str, list[float]] = {name: [] for name in usage_peer.STATEMENTS}
    with (
        usage_peer.indexed(side.database_url) as connection,
        contextlib.closing(side.asker()) as asker,
        tempfile.TemporaryDirectory() as scratch,
    ):
        requests = Path(scratch) / "requests"
        requests.write_bytes(line({"Authorization": f"Bearer {side.key}"}, b""))
        usage_peer.check(connection, question, asker.ask("usage", period="30d"))
        for number in range(rounds):
            for turn in ("ours", "peers") if number % 2 == 0 else ("peers", "ours"):
                if turn == "peers":
                    for name, statement in usage_peer.STATEMENTS.items():
                        times = [usage_peer.time_ms(connection, statement, question) for _ in range(3)]
                        peers[name].append(statistics.median(times))
                    continue
                for name, connections in (("1 connection, all the time", 1), ("4 connections", 4)):
                    url = f"{side.site.url}/v1/{DAYS_30}"
                    ours[name].append(run(url, requests, connections=connections, seconds=seconds))
                ours[f"1 connection, {PACE}/s"].append(_paced(asker, seconds))
        usage_peer.check(connection, question, asker.ask("usage", period="30d"))
    if wrong := sum(load.wrong for loads in ours.values() for load in loads):
        raise RuntimeError(f"{wrong} answers were not 2xx; nothing is reported")
    first = next(iter(ours.values()))
    found: dict[str, dict[str, Spread]] = {}
    for name, loads in ours.items():
        p50, p99 = Spread(tuple(load.p50_ms for load in loads)), Spread(tuple(load.p99_ms for load in loads))
        found[f"relay over HTTP, {name}"] = {"p50_ms": p50, "p99_ms": p99}
    rows = [[name, str(spreads["p50_ms"]), str(spreads["p99_ms"]), ""] for name, spreads in found.items()]
    for name, times_ms in peers.items():
        ratio = Spread(tuple(ms / load.p50_ms for ms, load in zip(times_ms, first, strict=True)))
        found[f"sessions in SQL, {name}"] = {"p50_ms": Spread(tuple(times_ms)), "ratio": ratio}
        rows.append([f"sessions in SQL, {name}", str(Spread(tuple(times_ms))), "", str(ratio)])
    columns = [f"30 days by day, {sessions:,} sessions", "median, ms", "p99, ms", "relay is … times as fast"]
    machine.show("usage", columns, rows)
    return found


def _paced(asker: Asker, seconds: float) -> Load:
    times = sorted(asker.paced_ms(asker.request(DAYS_30), PACE, seconds))
    return Load(len(times) / seconds, statistics.median(times), times[int(len(times) * 0.99)], len(times), 0)


def _beside_small(sides: dict[str, Side], rounds: int, sessions: int) -> None:
    times: dict[str, dict[str, list[float]]] = {name: {question: [] for question in QUESTIONS} for name in sides}
    with contextlib.ExitStack() as stack:
        askers = {name: stack.enter_context(contextlib.closing(side.asker())) for name, side in sides.items()}
        for _ in range(rounds):
            for question in QUESTIONS:
                for name, ms in _turns(askers, question):
                    times[name][question].append(ms)
    rows = []
    for question in QUESTIONS:
        small_ms, large_ms = (sorted(times[name][question]) for name in ("small", "large"))
        ratio = statistics.median(large_ms) / statistics.median(small_ms)
        rows.append([question, _spread(small_ms), _spread(large_ms), f"{ratio:.2f}"])
    columns = ["median / p99, ms", f"{SMALL:,} sessions", f"{sessions:,} sessions", "ratio of medians"]
    machine.show("reading usage", columns, rows)


def _turns(askers: dict[str, Asker], question: str) -> Iterator[tuple[str, float]]:
    """Measure both by turns, one request each, so that other work of the machine affects both."""
    path, params = QUESTIONS[question]
    params = {name: str(value).format(today=_day(0), yesterday=_day(1)) for name, value in params.items()}
    for number in range(REQUESTS):
        for name in askers if number % 2 == 0 else reversed(askers):
            yield name, askers[name].time_ms(askers[name].request(path, **params))


def _project(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT project_id FROM session WHERE project_id NOT LIKE 'other%' LIMIT 1").fetchone()
    assert row is not None
    return str(row[0])


def prepared(server: str, url: str, name: str, sessions: int, directory: Path) -> str:
    """Return the secret key of the project with the history. Creates the history if it is missing."""
    kept = directory / f"{name}.key"
    if not kept.exists():
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        migrate(parse_database_url(url))
        days = 31 if sessions <= SMALL else 730
        project = asyncio.run(history.fill(url, sessions, days, rooms=5_000, identities=200_000))
        kept.write_text(next(key.key for key in project.keys if key.key.startswith("sk_live_")), encoding="utf-8")
    migrate(parse_database_url(url))  # an earlier version may have created it
    return kept.read_text(encoding="utf-8")


def _day(days_ago: int) -> str:
    at = datetime.fromtimestamp(time.time() // 86400 * 86400 - days_ago * 86400, UTC)
    return at.isoformat().replace("+00:00", "Z")


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} / {found[int(len(found) * 0.99)]:.2f}"
