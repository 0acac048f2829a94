"""Real calls through a real livekit-server: Relay bills what the participants' own clocks measure."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from livekit import api as livekit_api

from services.cli.projects import create_project
from shared.infra.ids import Mode, livekit_room
from shared.infra.postgres.pool import connect
from shared.infra.settings import environment
from shared.models.projects import CreatedProject
from tests.e2e.conftest import Stack
from tests.e2e.livekit_server import API_KEY, API_SECRET
from tests.e2e.participant import Person
from tests.e2e.recorder import Recorder

pytestmark = pytest.mark.livekit
_TOLERANCE_S = 2.0
_SETTLED_WITHIN_S = 90.0
# Longer than the whole seconds of LiveKit, so that peaks do not depend on rounding.
_PAUSE_S = 2.5


class ProjectClient(NamedTuple):
    """A client of the API with the secret key of a project in one mode."""

    stack: Stack
    project: CreatedProject
    mode: Mode

    async def _request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        key = next(key.key for key in self.project.keys if key.mode == self.mode and key.type == "secret")
        answer = await self.stack.api.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    async def mint(self, room: str, identity: str, **grants: bool) -> tuple[str, str]:
        """Mint a token. Returns LiveKit's URL and the token."""
        body = {"room": room, "identity": identity, "grants": grants}
        answer = await self._request("POST", "/v1/tokens", json=body)
        return answer["url"], answer["token"]

    async def join(self, room: str, identity: str, **grants: bool) -> Person:
        return await Person(identity).join(*await self.mint(room, identity, **grants))

    async def usage(self) -> dict[str, Any]:
        return await self._request("GET", "/v1/usage", params={"period": "all"})

    async def sessions(self) -> list[tuple[str, int, int]]:
        """Return (identity, start, end) of the ended sessions, in unix ms."""
        conn = await connect(self.stack.database, "tests")
        try:
            rows = await conn.fetch(
                "SELECT identity, started_ms, ended_ms FROM session WHERE project_id = $1 AND mode = $2"
                " AND ended_ms IS NOT NULL ORDER BY started_ms",
                self.project.project_id,
                self.mode,
            )
        finally:
            await conn.close()
        return [(row["identity"], row["started_ms"], row["ended_ms"]) for row in rows]


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while not await holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.25)


async def cut_off(scope: ProjectClient, room: str, identity: str, after_s: float) -> Person:
    """Run a participant in a process and kill it. Only LiveKit knows its end (``wait_until_noticed``)."""
    url, token = await scope.mint(room, identity)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.participant", url, token,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        person = Person(identity)
        person.calling, person.connected, person.video_on = map(float, line.split())
        await asyncio.sleep(after_s)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else only the garbage collector closes its pipe
    return person


async def wait_until_noticed(recorder: Recorder, person: Person) -> None:
    """Wait for LiveKit's participant_left, and return its time as the end.

    The billed time of a participant who vanishes runs until LiveKit gives them up, which no other clock can know.
    """

    async def left() -> bool:
        for event in recorder.events():
            if event["event"] == "participant_left" and event["participant"]["identity"] == person.identity:
                # LiveKit floors the time to the second. The middle of the second is the best estimate.
                person.gone = int(event["createdAt"]) + 0.5
                return True
        return False

    await eventually(left, f"LiveKit never noticed that {person.identity} is gone")


async def lobby(scope: ProjectClient) -> list[Person]:
    """Run a call with three at once: ada uses her camera, bob listens, carol leaves and comes back."""
    ada = await scope.join("lobby", "ada")
    bob = await scope.join("lobby", "bob")
    carol = await scope.join("lobby", "carol")
    await ada.publish(camera=True)
    await asyncio.sleep(5)
    await carol.leave()
    await asyncio.sleep(_PAUSE_S)
    await ada.camera_off()
    again = await scope.join("lobby", "carol")
    await asyncio.sleep(4)
    await bob.leave()
    await asyncio.sleep(_PAUSE_S)
    await asyncio.gather(ada.leave(), again.leave())
    return [ada, bob, carol, again]


async def stage(scope: ProjectClient) -> list[Person]:
    """Run a call in which dave is killed, and grace uses her camera until the room is deleted."""
    filming = await scope.join("stage", "grace")
    await asyncio.sleep(_PAUSE_S)
    await filming.publish(camera=True)
    vanished = asyncio.create_task(cut_off(scope, "lobby", "dave", 4))
    await asyncio.sleep(8)
    name = livekit_room(scope.project.project_id, scope.mode, "stage")
    async with livekit_api.LiveKitAPI(scope.stack.livekit.api_url, API_KEY, API_SECRET) as service:
        filming.leaving = time.time()
        await service.room.delete_room(livekit_api.DeleteRoomRequest(room=name))
    await filming.wait_until_removed(20)
    dave = await vanished
    await wait_until_noticed(scope.stack.recorder, dave)
    return [filming, dave]


async def rehearsal(scope: ProjectClient) -> list[Person]:
    """Run a call in test mode. Frank may not publish, and LiveKit enforces it."""
    frank = await scope.join("lobby", "frank", canPublish=False)
    with pytest.raises(frank.rtc.participant.PublishTrackError) as refused:
        await frank.publish(camera=False)
    print(f"publishing without the permission: {refused.value}")
    await frank.leave()
    tracks = [event for event in scope.stack.recorder.events() if event["event"] == "track_published"]
    assert not any(event["participant"]["identity"] == "frank" for event in tracks)
    return [frank]


def check(totals: dict[str, float], people: list[Person]) -> None:
    """Compare the billed minutes with the participants' clocks, within two seconds a session."""
    allowed, filming = _TOLERANCE_S * len(people), sum(p.video_on > 0 for p in people)
    shortest, longest = sum(p.shortest_s for p in people), sum(p.longest_s for p in people)
    video, longest_video = sum(p.video_s for p in people), sum(p.longest_video_s for p in people)
    billed = {name: totals[f"{name}Minutes"] * 60 for name in ("participant", "audio", "video")}
    assert shortest - allowed <= billed["participant"] <= longest + allowed
    assert shortest - longest_video - allowed <= billed["audio"] <= longest - video + allowed
    assert video - _TOLERANCE_S * filming <= billed["video"] <= longest_video + _TOLERANCE_S * filming


async def check_sessions(scope: ProjectClient, people: list[Person]) -> None:
    """Compare session by session, so that errors cannot cancel out. Prints the comparison (pytest -s)."""
    ordered = sorted(people, key=lambda person: person.connected)
    for person, (identity, start_ms, end_ms) in zip(ordered, await scope.sessions(), strict=True):
        billed_s = (end_ms - start_ms) / 1000
        print(
            f"{scope.project.name} {scope.mode} {identity}: own clock {person.shortest_s:.3f} to {person.longest_s:.3f} s"
            f" (video {person.video_s:.3f} s), Relay {billed_s:.3f} s"
        )
        assert identity == person.identity
        assert person.shortest_s - _TOLERANCE_S <= billed_s <= person.longest_s + _TOLERANCE_S


async def test_billed_minutes_match_the_clocks_of_the_participants(stack: Stack) -> None:
    acme, globex = [await create_project(stack.database, name) for name in ("acme", "globex")]
    scopes = [
        ProjectClient(stack, acme, "live"),
        ProjectClient(stack, globex, "live"),
        ProjectClient(stack, acme, "test"),
    ]
    calls = [lobby(scopes[0]), stage(scopes[1]), rehearsal(scopes[2])]
    groups = await asyncio.gather(*calls)
    peaks = [3, 2, 1]

    async def settled() -> bool:
        finished = [event for event in stack.recorder.events() if event["event"] == "room_finished"]
        if len(finished) < 4:
            return False
        for scope, people in zip(scopes, groups, strict=True):
            usage = await scope.usage()
            if usage["provisionalMinutes"] or len(await scope.sessions()) < len(people):
                return False
        return True

    await eventually(settled, "not every session was closed")
    if path := environment().get("RELAY_RECORD"):
        stack.recorder.write(Path(path))
    assert set(stack.recorder.answers) == {200}
    for scope, people, peak in zip(scopes, groups, peaks, strict=True):
        usage = await scope.usage()
        print(scope.project.name, scope.mode, usage["totals"], [day["peakParticipants"] for day in usage["daily"]])
        await check_sessions(scope, people)
        check(usage["totals"], people)
        assert max(day["peakParticipants"] for day in usage["daily"]) == peak
    nobody = await ProjectClient(stack, globex, "test").usage()
    assert nobody["totals"]["participantMinutes"] == 0
