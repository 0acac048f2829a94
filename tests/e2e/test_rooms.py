"""Rooms, participants and the rights in tokens, with real participants in a real LiveKit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from livekit import api as livekit_api

from services.api.app import create_app
from services.local.embedded import EmbeddedServers
from shared.infra.clock import SystemClock
from tests.conftest import fresh_database
from tests.e2e.gateway import Gateway, open_gateway
from tests.e2e.guest import Guest
from tests.integration.conftest import key_of

pytestmark = pytest.mark.livekit
DATA_KEPT_BACK_S = 0.5


@pytest.fixture(scope="module")
async def gateway(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[Gateway]:
    with fresh_database(servers, migrated_template) as database:
        async with open_gateway(database, servers.redis_url) as opened:
            yield opened


async def leave(*guests: Guest) -> None:
    await asyncio.gather(*(guest.leave() for guest in guests))


async def refused_to_publish(guest: Guest, **media: bool) -> bool:
    try:
        await guest.publish(**media)
    except guest.rtc.participant.PublishTrackError:
        return True
    return False


async def test_livekit_enforces_each_grant(gateway: Gateway) -> None:
    """A host publishes and sends data. Each guest lacks one of the grants."""
    host = await gateway.join("stage", "host")
    listener, deaf, muzzled, voiceless, speaker = await asyncio.gather(
        gateway.join("stage", "listener"),
        gateway.join("stage", "deaf", grants={"canSubscribe": False}),
        gateway.join("stage", "muzzled", grants={"canPublish": False}),
        gateway.join("stage", "voiceless", grants={"canPublishData": False}),
        gateway.join("stage", "speaker", grants={"canPublishSources": ["microphone"]}),
    )
    await host.publish(camera=True)
    # canSubscribe
    await listener.until(lambda: len(listener.tracks) == 2, "received both tracks of the host")
    await muzzled.until(lambda: len(muzzled.tracks) == 2, "received both tracks of the host")
    assert deaf.tracks == []
    # canPublish, canPublishSources
    # Both run at once, because the SDK waits ten seconds for a permission that never comes.
    refusals = (refused_to_publish(muzzled, camera=False), refused_to_publish(speaker, camera=True, microphone=False))
    assert all(await asyncio.gather(*refusals))
    assert not await refused_to_publish(speaker, camera=False)
    await listener.until(lambda: ("speaker", "KIND_AUDIO") in listener.tracks, "heard the one who may speak")
    assert not any(identity == "muzzled" for identity, _ in listener.tracks)
    # canPublishData: data of the first sender would arrive before that of the second.
    with suppress(voiceless.rtc.participant.PublishDataError):
        await voiceless.say("I should not")
    await asyncio.sleep(DATA_KEPT_BACK_S)
    await muzzled.say("I may", "chat")
    await host.until(lambda: bool(host.heard), "heard data")
    assert host.heard == [("muzzled", "chat", b"I may")]
    people = {person["identity"]: person for person in (await gateway.ok("GET", "/rooms/stage"))["participants"]}
    rights = {identity: person["permission"] for identity, person in people.items()}
    assert [name for name, right in rights.items() if not right["canSubscribe"]] == ["deaf"]
    assert [name for name, right in rights.items() if not right["canPublish"]] == ["muzzled"]
    assert [name for name, right in rights.items() if not right["canPublishData"]] == ["voiceless"]
    assert rights["speaker"]["canPublishSources"] == ["microphone"]
    assert {(t["type"], t["source"]) for t in people["host"]["tracks"]} == {
        ("audio", "microphone"),
        ("video", "camera"),
    }
    await leave(host, listener, deaf, muzzled, voiceless, speaker)


async def test_token_sets_hidden_metadata_and_attributes(gateway: Gateway) -> None:
    host = await gateway.join("salon", "host")
    hidden = await gateway.join("salon", "hidden", grants={"hidden": True})
    known = await gateway.join(
        "salon", "known", name="Ada ❤", metadata='{"a": 1}', attributes={"role": "host"},
        grants={"canUpdateOwnMetadata": True},
    )  # fmt: skip
    await host.until(lambda: "known" in host.met, "met the one who is not hidden")
    assert host.met == ["known"]
    assert "hidden" not in host.room.remote_participants
    seen = host.room.remote_participants["known"]
    assert (seen.name, seen.metadata, dict(seen.attributes)) == ("Ada ❤", '{"a": 1}', {"role": "host"})
    room = await gateway.ok("GET", "/rooms/salon")
    people = {person["identity"]: person for person in room["participants"]}
    assert people["hidden"]["permission"]["hidden"] is True
    assert (people["known"]["name"], people["known"]["attributes"]) == ("Ada ❤", {"role": "host"})
    # canUpdateOwnMetadata: with it, and without.
    await known.me.set_attributes({"role": "speaker"})
    await host.until(lambda: "participant_attributes_changed" in host.changes, "saw the changed attributes")
    assert dict(host.room.remote_participants["known"].attributes) == {"role": "speaker"}
    with suppress(Exception):  # the error of the SDK does not matter, only the state in LiveKit
        await asyncio.wait_for(host.me.set_metadata("not allowed"), 5)
    assert (await gateway.ok("GET", "/rooms/salon/participants/host"))["metadata"] == ""
    await leave(host, hidden, known)


async def test_room_configuration_dispatches_agents_and_limits_the_room(gateway: Gateway) -> None:
    configuration = {
        "maxParticipants": 1,
        "metadata": "from the token",
        "agents": [{"agentName": "scribe", "metadata": "m"}],
    }
    first = await gateway.join("studio", "first", roomConfig=configuration)
    room = await gateway.ok("GET", "/rooms/studio")
    assert (room["maxParticipants"], room["metadata"]) == (1, "from the token")
    async with gateway.livekit_api() as service:
        dispatches = await service.agent_dispatch.list_dispatch(room_name=gateway.name("studio"))
    assert [(dispatch.agent_name, dispatch.metadata) for dispatch in dispatches] == [("scribe", "m")]
    with pytest.raises(first.rtc.ConnectError):
        await gateway.join("studio", "second")
    await leave(first)


async def test_livekit_refuses_an_expired_token(gateway: Gateway) -> None:
    """The clock of the API is ten minutes behind, so the test need not wait. LiveKit allows one minute."""

    class Late(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() - 600_000

    app: Any = create_app(gateway.settings, Late())
    async with AppLifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay") as api:
        tokens = {}
        for ttl in (500, 700):
            body = {"room": "hall", "identity": f"ttl-{ttl}", "ttl": ttl}
            answer = await api.post("/v1/tokens", json=body, headers=key_of(gateway.project))
            assert answer.status_code == 200, answer.text
            tokens[ttl] = answer.json()["token"]
    over = Guest("ttl-500")
    with pytest.raises(over.rtc.ConnectError):
        await over.join(gateway.livekit.url, tokens[500])
    still = Guest("ttl-700")
    await still.join(gateway.livekit.url, tokens[700])
    await leave(still)


async def test_room_is_created_changed_and_ended(gateway: Gateway) -> None:
    made = await gateway.ask("POST", "/rooms", json={"name": "lobby", "maxParticipants": 5, "metadata": "one"})
    assert made.status_code == 201
    assert (made.json()["maxParticipants"], made.json()["metadata"]) == (5, "one")
    again = await gateway.ask("POST", "/rooms", json={"name": "lobby", "maxParticipants": 9, "metadata": "other"})
    assert (again.status_code, again.json()["sid"]) == (201, made.json()["sid"])
    assert (again.json()["maxParticipants"], again.json()["metadata"]) == (5, "one")
    assert (await gateway.ask("GET", "/rooms/lobby", mode="test")).status_code == 404
    ada, bob = await asyncio.gather(gateway.join("lobby", "ada"), gateway.join("lobby", "bob"))
    await ada.publish(camera=True)
    await bob.until(lambda: len(bob.tracks) == 2, "received ada's tracks")
    listed = (await gateway.ok("GET", "/rooms"))["rooms"]
    assert "lobby" in [room["room"] for room in listed]
    assert (await gateway.ok("GET", "/rooms", mode="test"))["rooms"] == []
    # The room's metadata, data to one of them, data to all.
    await gateway.ok("PATCH", "/rooms/lobby", json={"metadata": "two"})
    await ada.until(lambda: "room_metadata_changed" in ada.changes, "saw the room's metadata")
    assert ada.room.metadata == "two"
    await gateway.ok(
        "POST", "/rooms/lobby/data", json={"data": "to bob", "topic": "t", "destinationIdentities": ["bob"]}
    )
    await gateway.ok("POST", "/rooms/lobby/data", json={"data": "AP8=", "encoding": "base64"})
    await ada.until(lambda: bool(ada.heard), "heard what was sent to all")
    await bob.until(lambda: len(bob.heard) == 2, "heard what was sent to him and to all")
    assert ada.heard == [(None, "", b"\x00\xff")]
    assert bob.heard == [(None, "t", b"to bob"), (None, "", b"\x00\xff")]
    # A participant's name, metadata, attributes and rights.
    change = {"name": "Ada", "metadata": "m", "attributes": {"role": "host"}, "permission": {"canPublishData": False}}
    changed = await gateway.ok("PATCH", "/rooms/lobby/participants/ada", json=change)
    assert (changed["name"], changed["attributes"], changed["permission"]["canPublishData"]) == (
        "Ada",
        {"role": "host"},
        False,
    )
    assert changed["permission"]["canPublish"] is True
    await bob.until(
        lambda: {"participant_name_changed", "participant_attributes_changed"} <= set(bob.changes),
        "saw ada's change",
    )
    # Muting: by default LiveKit refuses to unmute other participants.
    muted = await gateway.ok("POST", "/rooms/lobby/participants/ada/mute", json={"source": "microphone"})
    assert [(track["source"], track["muted"]) for track in muted["tracks"]] == [("microphone", True)]
    await bob.until(lambda: "track_muted" in bob.changes, "heard that ada is muted")
    unmute = await gateway.ask("POST", "/rooms/lobby/participants/ada/mute", json={"muted": False})
    assert (unmute.status_code, unmute.json()["code"]) == (409, "livekit_conflict")
    for path in ("/rooms/lobby/participants/nobody/mute", "/rooms/nowhere/data"):
        body = {} if path.endswith("mute") else {"data": "x"}
        assert (await gateway.ask("POST", path, json=body)).status_code == 404
    # Remove one participant, then end the room.
    await gateway.ok("DELETE", "/rooms/lobby/participants/bob")
    await bob.wait_until_removed(20)
    people = (await gateway.ok("GET", "/rooms/lobby"))["participants"]
    assert [person["identity"] for person in people] == ["ada"]
    await gateway.ok("DELETE", "/rooms/lobby")
    await ada.wait_until_removed(20)
    assert (await gateway.ask("GET", "/rooms/lobby")).status_code == 404
    assert (await gateway.ask("DELETE", "/rooms/lobby")).json()["code"] == "room_not_found"


class AppLifespan:
    """Starts and stops an ASGI application that no server runs."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._done: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task = asyncio.create_task(self._app(scope, self._messages.get, self._done.put))
        await self._messages.put({"type": "lifespan.startup"})
        assert (await self._done.get())["type"] == "lifespan.startup.complete"

    async def __aexit__(self, *_: object) -> None:
        await self._messages.put({"type": "lifespan.shutdown"})
        assert (await self._done.get())["type"] == "lifespan.shutdown.complete"
        await self._task


async def test_rooms_of_any_livekit_name_can_be_shown_and_ended(gateway: Gateway) -> None:
    """Names as LiveKit's SIP service creates them and its SDKs allow, and an identity that is a URL."""
    identity = "https://idp.example/u/1"
    for name in ("call_+15105550100_AbCdEf", "Team Standup", "Büro/2. Stock", "a%2Fb", "x" * 236):
        async with gateway.livekit_api() as livekit:
            await livekit.room.create_room(livekit_api.CreateRoomRequest(name=gateway.name(name)))
        path = f"/rooms/{quote(name, safe='')}"
        assert name in [room["room"] for room in (await gateway.ok("GET", "/rooms"))["rooms"]]
        assert (await gateway.ok("PATCH", path, json={"metadata": "m"}))["metadata"] == "m"
        assert (await gateway.ok("GET", path))["room"] == name
        await gateway.ok("DELETE", path)
        assert (await gateway.ask("GET", path)).status_code == 404
    guest = await gateway.join("lobby", identity)
    path = f"/rooms/lobby/participants/{quote(identity, safe='')}"
    assert (await gateway.ok("GET", path))["identity"] == identity
    await gateway.ok("DELETE", path)
    await guest.wait_until_removed(20)
    await guest.leave()
