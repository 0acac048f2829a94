"""What reading usage costs, with a small and a large history in one server: `python -m benchmarks.usage --sessions N`.

Both databases hold the last 31 days in full, so that the same question finds as much to say in both. Every answer's minutes are
held against a sum over the sessions themselves; a wrong one stops the benchmark.
"""

import argparse
import asyncio
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg

from benchmarks import history, machine, processes
from benchmarks.machine import console
from services.cli.embedded import embedded_servers
from shared.clock import DAY_MS
from shared.migrate import migrate
from shared.settings import parse_database_url

SMALL = 10_000
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
_TRUTH = (
    "SELECT sum(least(ended_ms, %(to)s) - greatest(started_ms, %(from)s)) FROM session WHERE project_id = %(project)s"
    " AND mode = 'live' AND started_ms < %(to)s AND started_ms > %(from)s - 86400000 AND ended_ms > %(from)s"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.usage", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="in the large history (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="over all questions (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=60, help="a round and question (default: %(default)s)")
    parser.add_argument("--directory", type=Path, help="keep the servers' files here, and use what is there")
    arguments = parser.parse_args()
    console.print(machine.describe())
    with processes.scratch() as scratch:
        _measure(arguments, arguments.directory or scratch)
    return 0


def _measure(arguments: argparse.Namespace, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with embedded_servers(directory / "servers", fsync=False) as running:
        sizes = {"small": SMALL, "large": arguments.sessions}
        environments, keys = {}, {}
        for name, sessions in sizes.items():
            url = running.database_url.replace("/relay?", f"/{name}?")
            keys[name] = _prepared(running.database_url, url, name, sessions, directory)
            environments[name] = {
                **processes.LIVEKIT,
                "DATABASE_URL": url,
                "REDIS_URL": running.redis_url,
                "AUTH_SECRET": "b" * 32,
                "RELAY_API_URL": "http://127.0.0.1",
                "RATE_LIMIT_API_PER_KEY": "0",
                "RATE_LIMIT_API_PER_PROJECT": "0",
            }
        times: dict[str, dict[str, list[float]]] = {name: {question: [] for question in QUESTIONS} for name in sizes}
        with (
            processes.api(environments["small"], directory, "small") as small,
            processes.api(environments["large"], directory, "large") as large,
        ):
            for name, site in (("small", small), ("large", large)):
                with _client(site.url, keys[name]) as client:
                    _check(client, environments[name]["DATABASE_URL"])
            with _client(small.url, keys["small"]) as of_small, _client(large.url, keys["large"]) as of_large:
                clients = {"small": of_small, "large": of_large}
                for _ in range(arguments.rounds):
                    for question in QUESTIONS:
                        for name, found in _times(clients, question, arguments.requests).items():
                            times[name][question] += found
    rows = []
    for question in QUESTIONS:
        small_ms, large_ms = (sorted(times[name][question]) for name in ("small", "large"))
        ratio = statistics.median(large_ms) / statistics.median(small_ms)
        rows.append([question, _spread(small_ms), _spread(large_ms), f"{ratio:.2f}"])
    columns = ["median / p99, ms", f"{SMALL:,} sessions", f"{arguments.sessions:,} sessions", "ratio of medians"]
    machine.show("reading usage", columns, rows)


def _prepared(server: str, url: str, name: str, sessions: int, directory: Path) -> str:
    """The secret key of the project with the history; filled if the database is not there yet."""
    kept = directory / f"{name}.key"
    if not kept.exists():
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        migrate(parse_database_url(url))
        days = 31 if sessions <= SMALL else 730
        project = asyncio.run(history.fill(url, sessions, days, rooms=5_000, identities=200_000))
        kept.write_text(next(key.key for key in project.keys if key.key.startswith("sk_live_")), encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def _client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=120)


def _day(days_ago: int) -> str:
    at = datetime.fromtimestamp(time.time() // 86400 * 86400 - days_ago * 86400, UTC)
    return at.isoformat().replace("+00:00", "Z")


def _ask(client: httpx.Client, question: str) -> dict[str, Any]:
    path, params = QUESTIONS[question]
    params = {name: str(value).format(today=_day(0), yesterday=_day(1)) for name, value in params.items()}
    answer = client.get(f"/v1/{path}", params=params)
    answer.raise_for_status()
    return dict(answer.json())


def _times(clients: dict[str, httpx.Client], question: str, requests: int) -> dict[str, list[float]]:
    """One request here, one there, so that whatever else the machine does falls on both."""
    found: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(requests):
        for name in clients if number % 2 == 0 else reversed(clients):
            started = time.perf_counter()
            _ask(clients[name], question)
            found[name].append(1000 * (time.perf_counter() - started))
    return found


def _check(client: httpx.Client, url: str) -> None:
    answer = _ask(client, "usage, 30 days")
    to_ms = int(time.time()) // 86400 * 86_400_000 + DAY_MS
    with psycopg.connect(url) as connection:
        project = connection.execute(
            "SELECT project_id FROM session WHERE project_id NOT LIKE 'other%' LIMIT 1"
        ).fetchone()
        assert project is not None
        values = {"from": to_ms - 30 * DAY_MS, "to": to_ms, "project": project[0]}
        truth = connection.execute(_TRUTH, values).fetchone()
    assert truth is not None
    if round(answer["totals"]["participantMinutes"] * 60_000) != truth[0]:
        raise RuntimeError(f"{answer['totals']} where the sessions amount to {truth[0]} ms; nothing is reported")


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} / {found[int(len(found) * 0.99)]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
