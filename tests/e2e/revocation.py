"""Measures how long a revoked key still works, with two API processes under load and faults.

A test runs it. By hand it prints figures:

    python -m tests.e2e.revocation --rounds 10
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from services.cli.keys import create_key, revoke_key
from services.cli.projects import create_project
from services.local import embedded
from shared.infra.migrations.migrate import migrate
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl, parse_database_url
from tests.e2e.children import end
from tests.ports import free_port

PROCESSES = 2
# Connections to each process, with the key that will be revoked and with a key that stays valid.
REVOKED, STAYING = 3, 2
WARM_S, ON_S = 0.4, 1.5
_ANSWERED_WITHIN_S = 20.0
LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'relay api keys' AND datname = current_database()"
)


class Round(NamedTuple):
    """One revocation.

    ``last_sent_ms`` is the time from the end of the call to the last request that was still accepted; it is negative if that
    was sent before. ``by_staying`` counts responses of 200 to the other key in the same time.
    """

    case: str
    last_sent_ms: float
    by_revoked: int
    by_staying: int
    other_answers: dict[int, int]


class Answered(NamedTuple):
    sent: float
    status: int


class Processes(NamedTuple):
    """The parts that a round can disturb."""

    database: DatabaseUrl
    ports: list[int]
    restart_redis: Callable[[], Awaitable[None]]
    pause_s: float


async def keep_minting(port: int, key: str, answers: list[Answered], stop: asyncio.Event, pause_s: float) -> None:
    """Mint tokens over one connection, one request after the other, ``pause_s`` apart."""
    body = b'{"room":"lobby","identity":"ada"}'
    request = (
        f"POST /v1/tokens HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not stop.is_set():
            sent = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answers.append(Answered(sent, int(head[9:12])))
            await asyncio.sleep(pause_s)
    finally:
        writer.close()
        await writer.wait_closed()


async def measured(case: str, running: Processes, project_id: str, disturb: Callable[[], Awaitable[None]]) -> Round:
    """Revoke a key under load, after ``disturb``, and measure."""
    key = await create_key(running.database, project_id, "live", "secret", "revoked soon")
    stays = await create_key(running.database, project_id, "live", "secret", "stays")
    revoked, staying = list[Answered](), list[Answered]()
    stop = asyncio.Event()
    clients = [
        asyncio.create_task(keep_minting(port, secret, answers, stop, running.pause_s))
        for port in running.ports
        for secret, answers, count in ((key.key, revoked, REVOKED), (stays.key, staying, STAYING))
        for _ in range(count)
    ]
    try:
        await asyncio.sleep(WARM_S)
        deadline = time.monotonic() + _ANSWERED_WITHIN_S
        while not (revoked and staying):
            assert time.monotonic() < deadline, "nothing was minted"
            await asyncio.sleep(0.01)
        await disturb()
        await revoke_key(running.database, key.key_id)
        returned = time.monotonic()
        await asyncio.sleep(ON_S)
        dead = [client for client in clients if client.done()]
        for client in dead:
            client.result()
    finally:
        stop.set()
        await asyncio.gather(*clients, return_exceptions=True)
        await revoke_key(running.database, stays.key_id)
    through = [answer for answer in revoked if answer.status == 200]
    others = [answer.status for answer in (*revoked, *staying) if answer.status not in (200, 401)]
    return Round(
        case,
        (max(answer.sent for answer in through) - returned) * 1000,
        len(through),
        sum(answer.status == 200 for answer in staying),
        {status: others.count(status) for status in set(others)},
    )


async def listeners(database: DatabaseUrl) -> list[int]:
    conn = await connect(database, "relay tests")
    try:
        return [row["pid"] for row in await conn.fetch(LISTENERS)]
    finally:
        await conn.close()


async def cut_listeners(database: DatabaseUrl) -> None:
    conn = await connect(database, "relay tests")
    try:
        for pid in [row["pid"] for row in await conn.fetch(LISTENERS)]:
            await conn.fetchval("SELECT pg_terminate_backend($1)", pid)
    finally:
        await conn.close()


@asynccontextmanager
async def silenced_listeners(database: DatabaseUrl) -> AsyncIterator[None]:
    """Keep the listening connections open but silent, as when a network drops their packets."""
    stopped = await listeners(database)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


async def wait_for_listeners(running: Processes) -> None:
    """Wait until every process listens, so that each round starts without a fault."""
    deadline = time.monotonic() + 20
    while len(await listeners(running.database)) < PROCESSES:
        assert time.monotonic() < deadline, "the processes do not listen"
        await asyncio.sleep(0.05)


async def rounds(running: Processes, count: int) -> list[Round]:
    project_id = (await create_project(running.database, "revocation")).project_id
    found = []

    async def nothing() -> None:
        pass

    for _ in range(count):
        await wait_for_listeners(running)
        found.append(await measured("calm", running, project_id, nothing))
        found.append(await measured("redis restarted", running, project_id, running.restart_redis))
        await wait_for_listeners(running)
        found.append(await measured("listener cut", running, project_id, lambda: cut_listeners(running.database)))
        await wait_for_listeners(running)
        async with silenced_listeners(running.database):
            found.append(await measured("listener silent", running, project_id, nothing))
    return found


@contextmanager
def api_process(database_url: str, redis_url: str, port: int, log: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "REDIS_STREAMS_URL": "",
        "LIVEKIT_URL": "ws://127.0.0.1:7880",
        "LIVEKIT_API_KEY": "devkey",
        "LIVEKIT_API_SECRET": "secret",
        "AUTH_SECRET": "x" * 32,
        "RELAY_API_URL": f"http://127.0.0.1:{port}",
        "PORT": str(port),
        "RATE_LIMIT_TOKENS_PER_KEY": "0",
        "RATE_LIMIT_TOKENS_PER_PROJECT": "0",
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "services.api.main"], env=environment, stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield
        finally:
            end(process, 30)


async def wait_until_answering(port: int) -> None:
    deadline = time.monotonic() + 60
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        while True:
            try:
                await client.get(f"http://127.0.0.1:{port}/healthz")
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the API did not start"
                await asyncio.sleep(0.1)
            else:
                return


async def run(directory: Path, database_url: str, count: int, pause_s: float = 0.0) -> list[Round]:
    """Run ``count`` rounds of each case with two API processes and a separate Redis.

    Without a pause between two requests of a client, both processes work as fast as they can.
    """
    redis = embedded.prepare_redis(directory)
    with ExitStack() as stack:
        running_redis = stack.enter_context(ExitStack())
        running_redis.enter_context(embedded.running(redis))

        async def restart() -> None:
            # This must run in the same thread: the kernel stops an embedded server with the thread that started it.
            running_redis.close()
            running_redis.enter_context(embedded.running(redis))

        ports = [free_port() for _ in range(PROCESSES)]
        logs = [directory / f"api{number}.log" for number in range(PROCESSES)]
        for port, log in zip(ports, logs, strict=True):
            stack.enter_context(api_process(database_url, redis.url, port, log))
        for port in ports:
            await wait_until_answering(port)
        return await rounds(Processes(parse_database_url(database_url), ports, restart, pause_s), count)


def report(found: list[Round]) -> str:
    lines = []
    for case, of_case in itertools.groupby(sorted(found), key=lambda one: one.case):
        several = list(of_case)
        lasts = [one.last_sent_ms for one in several]
        lines.append(
            f"{case:16} last request through, ms after the call returned: median {statistics.median(lasts):7.1f}"
            f"  worst {max(lasts):7.1f}  rounds {len(several)}"
            f"  with the key {sum(one.by_revoked for one in several)}, beside it {sum(one.by_staying for one in several)}"
            f"  other answers {json.dumps([one.other_answers for one in several if one.other_answers])}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-test-") as name:
        directory = Path(name)
        (directory / "own").mkdir()
        with embedded.embedded_servers(directory / "servers", fsync=False) as servers:
            migrate(parse_database_url(servers.database_url))
            print(report(asyncio.run(run(directory / "own", servers.database_url, arguments.rounds))))


if __name__ == "__main__":
    main()
