"""Measure each page of the portal with a large history and a thousand projects.

Run `python -m benchmarks.portal --directory D`. It uses the database that `python -m benchmarks usage --directory D` keeps, and
adds an account, projects, and one project with connected participants. LiveKit does not answer, which is the slowest case.
"""

import argparse
import os
import re
import statistics
import sys
import time
from html import unescape
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg

from benchmarks import machine, processes
from benchmarks.machine import console
from services.local.embedded import embedded_servers
from shared.infra.migrations.migrate import migrate
from shared.infra.settings import parse_database_url

PROJECTS, PEOPLE, ROOMS = 1_000, 2_000, 300
LIMIT_MS, LIMIT_BYTES = 100.0, 150_000
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_EMAIL, _PASSWORD = "bench@example.com", "a password of the benchmarks"  # protects nothing
# {history} has nine of ten sessions, {busy} the people who are connected.
PAGES = {
    "overview": "/projects/{history}",
    "overview, 2,000 people in 300 rooms": "/projects/{busy}",
    "usage, 30 days": "/projects/{history}/usage",
    "usage, 7 days by hour": "/projects/{history}/usage?period=7d&granularity=hour",
    "usage, all by day": "/projects/{history}/usage?period=all&granularity=day",
    "usage, all by month": "/projects/{history}/usage?period=all&granularity=month",
    "usage, 30 days by room": "/projects/{history}/usage?groupBy=room",
    "usage, 30 days by identity": "/projects/{history}/usage?groupBy=identity",
    "usage, 7 days by room": "/projects/{history}/usage?period=7d&groupBy=room",
    "usage, 30 days by hour": "/projects/{history}/usage?period=30d&granularity=hour",
    "usage, 30 days by kind": "/projects/{history}/usage?groupBy=kind",
    "rooms": "/projects/{history}/rooms",
    "rooms, 300 of them": "/projects/{busy}/rooms",
    "a room": "/projects/{busy}/room?name=room-1",
    "sessions": "/projects/{history}/sessions",
    "sessions of a room": "/projects/{history}/sessions?room=room-17",
    "sessions of an identity": "/projects/{history}/sessions?identity=user-17",
    "sessions that are open": "/projects/{busy}/sessions?status=open",
    "a session": "/projects/{history}/sessions/{session}",
    "events": "/projects/{history}/events",
    "events of a room": "/projects/{history}/events?room=room-17",
    "quickstart": "/projects/{history}/quickstart",
    "API keys": "/projects/{history}/keys",
    "members": "/projects/{history}/members",
    "audit log": "/projects/{history}/log",
    "settings": "/projects/{history}/settings",
    "projects": "/projects",
    "account": "/account",
    "health": "/instance",
    "all projects": "/instance/projects",
    "all projects, searched": "/instance/projects?q=name+99",
    "accounts": "/instance/accounts",
    "set aside": "/instance/set-aside",
    "audit log of the instance": "/instance/log",
}
_BUSY = "benchbusy"
_EMPTY = "DELETE FROM session WHERE project_id = %(busy)s"
_FILL = (
    "INSERT INTO project (id, name, created_at) SELECT 'bench' || lpad(n::text, 5, '0'), 'Project with name ' || n, now()"
    " FROM generate_series(1, %(projects)s) AS n ON CONFLICT (id) DO NOTHING",
    "INSERT INTO project (id, name, created_at) VALUES (%(busy)s, 'Busy', now()) ON CONFLICT (id) DO NOTHING",
    "INSERT INTO membership (project_id, account_id, role, created_at) SELECT p.id, a.id, 'owner', now() FROM project p,"
    " account a WHERE p.id LIKE 'bench%%' AND a.email = %(email)s ON CONFLICT DO NOTHING",
    _EMPTY,
    "INSERT INTO session (sid, project_id, mode, room, room_sid, identity, kind, started_ms, last_sign_ms, video_edges, state)"
    " SELECT 'PA_BUSY' || n, %(busy)s, 'live', 'room-' || n %% %(rooms)s, 'RM_BUSY' || n %% %(rooms)s, 'user-' || n,"
    " 'STANDARD', %(now_ms)s - 1000 * n, %(now_ms)s, ARRAY[%(now_ms)s - 500 * n],"
    " convert_to(json_build_object('sid', 'PA_BUSY' || n, 'project_id', %(busy)s::text, 'mode', 'live', 'room',"
    " 'room-' || n %% %(rooms)s, 'room_sid', 'RM_BUSY' || n %% %(rooms)s, 'identity', 'user-' || n, 'kind', 'STANDARD',"
    " 'joined_ms', %(now_ms)s - 1000 * n, 'active_ms', %(now_ms)s - 1000 * n, 'tracks',"
    " json_build_object('TR_1', json_build_array('VIDEO', 'CAMERA', %(now_ms)s - 500 * n, NULL)))::text, 'UTF8')"
    " FROM generate_series(1, %(people)s) AS n",
)


class Cost(NamedTuple):
    """Measurements of one page: sorted wall times, and processor time a request of API and Postgres."""

    wall_ms: list[float]
    api_ms: float
    postgres_ms: float
    size: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.portal", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="of python -m benchmarks usage --directory")
    parser.add_argument("--requests", type=int, default=30, help="a page (default: %(default)s)")
    parser.add_argument("--only", default="", help="pages whose name holds this")
    arguments = parser.parse_args()
    console.print(machine.describe())
    with embedded_servers(arguments.directory / "servers", fsync=False) as running:
        url = running.database_url.replace("/relay?", "/large?")
        migrate(parse_database_url(url))
        environment = {
            **processes.LIVEKIT,
            "DATABASE_URL": url,
            "REDIS_URL": running.redis_url,
            "AUTH_SECRET": "b" * 32,
            "RELAY_API_URL": "http://127.0.0.1",
        }
        with processes.api(environment, arguments.directory, "portal") as site, _client(site.url) as client:
            names = _filled(client, url)
            pages = {name: path.format(**names) for name, path in PAGES.items() if arguments.only in name}
            costs = {
                name: _cost(client, path, arguments.requests, site.pid, running.postgres_pid)
                for name, path in pages.items()
            }
        # The next measurement finds only the history.
        with psycopg.connect(url) as connection:
            connection.execute(_EMPTY, {"busy": _BUSY})
    columns = ["page", "wall: median, p99 (ms)", "CPU: API (ms)", "CPU: Postgres (ms)", "kB", ""]
    rows = [
        [name, f"{statistics.median(cost.wall_ms):.1f}, {cost.wall_ms[int(len(cost.wall_ms) * 0.99)]:.1f}",
         f"{cost.api_ms:.1f}", f"{cost.postgres_ms:.1f}", f"{cost.size / 1000:.0f}", _verdict(cost)]
        for name, cost in costs.items()
    ]  # fmt: skip
    machine.show("pages of the portal", columns, rows)
    return 0


def _verdict(cost: Cost) -> str:
    return " ".join(
        word
        for word, wrong in (
            ("slow", statistics.median(cost.wall_ms) >= LIMIT_MS),
            ("dear", cost.api_ms + cost.postgres_ms >= LIMIT_MS),
            ("heavy", cost.size >= LIMIT_BYTES),
        )
        if wrong
    )


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=60, headers={"accept": "text/html"})


def _filled(client: httpx.Client, url: str) -> dict[str, str]:
    """Sign in, and create the account and its projects if they are missing.

    Returns the names for ``PAGES``.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        known = connection.execute("SELECT FROM account WHERE email = %s", [_EMAIL]).fetchone()
        way = "/sign-in" if known is not None else "/sign-up"
        form_page = client.get(way).raise_for_status()
        token = re.search(r'name="form_token" value="([^"]+)"', form_page.text)
        assert token is not None
        form = {"form_token": unescape(token[1]), "name": "Bench", "email": _EMAIL, "password": _PASSWORD, "next": "/"}
        answer = client.post(way, data=form)
        if answer.status_code != 303:
            raise RuntimeError(f"{way} answered {answer.status_code}: {answer.text[-2000:]}")
        values = {
            "projects": PROJECTS, "busy": _BUSY, "email": _EMAIL, "rooms": ROOMS, "people": PEOPLE,
            "now_ms": time.time_ns() // 1_000_000,
        }  # fmt: skip
        for statement in _FILL:
            connection.execute(statement, values)
        connection.execute("ANALYZE project, membership")
        found = connection.execute(
            "SELECT project_id, sid FROM session WHERE project_id NOT LIKE 'other%%' AND project_id <> %s LIMIT 1",
            [_BUSY],
        ).fetchone()
    assert found is not None
    return {"history": found[0], "busy": _BUSY, "session": found[1]}


def _cost(client: httpx.Client, path: str, requests: int, api: int, postgres: int) -> Cost:
    for _ in range(3):
        _ask(client, path)
    before = _cpu_ms(api), sum(map(_cpu_ms, _family(postgres)))
    wall, size = [], 0
    for _ in range(requests):
        started = time.perf_counter()
        size = _ask(client, path)
        wall.append(1000 * (time.perf_counter() - started))
    after = _cpu_ms(api), sum(map(_cpu_ms, _family(postgres)))
    return Cost(sorted(wall), (after[0] - before[0]) / requests, (after[1] - before[1]) / requests, size)


def _ask(client: httpx.Client, path: str) -> int:
    answer = client.get(path)
    # Only LiveKit knows a room.
    if answer.status_code != (502 if "/room?" in path else 200):
        raise RuntimeError(f"{path} answered {answer.status_code}; nothing is reported")
    return len(answer.content)


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [pid, *(int(child) for child in children)]


if __name__ == "__main__":
    sys.exit(main())
