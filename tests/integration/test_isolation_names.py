"""Names crafted to escape a project's namespace, and tokens checked for rights beyond their room."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from services.cli.projects import create_project
from shared.infra.ids import parse_livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.fake_livekit import FakeLiveKit
from tests.integration.isolation import Holding, IsolationWorld, build_world, reached

# The only claims and rights that a token may have, whatever is requested.
CLAIMS = {"iss", "nbf", "exp", "sub", "name", "metadata", "attributes", "video", "roomConfig"}
RIGHTS = {
    "roomJoin", "room", "canPublish", "canSubscribe", "canPublishData", "canPublishSources", "canUpdateOwnMetadata", "hidden",
}  # fmt: skip


@pytest.fixture
def livekit(module_livekit: FakeLiveKit) -> FakeLiveKit:
    module_livekit.reset()
    return module_livekit


@pytest.fixture(scope="module")
def module_settings(module_settings: Settings, module_livekit: FakeLiveKit) -> Settings:
    return msgspec.structs.replace(module_settings, livekit_api_url=module_livekit.url)


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


@pytest.fixture
async def world(
    api: httpx.AsyncClient, pool: Pool, livekit: FakeLiveKit, project: CreatedProject, settings: Settings
) -> IsolationWorld:
    return await build_world(api, pool, livekit, [project, await create_project(settings.database, "globex")])


def crafted(owner: Holding) -> list[str]:
    """Return names of the allowed form that imitate something else."""
    other = owner.project.project_id
    return [
        f"p_{other}__lobby", f"t_{other}__lobby", f"p_{other}__", f"__p_{other}__lobby", "__", "_", "__lobby", "lobby__",
        "a__b", "_" * 128, "x" * 128, "p_", "t_", "-", ":", "a:b", "a.b", "-rf", "...", "participants", "data",
        "lobby.participants.ada",
    ]  # fmt: skip


# Names that are not of the allowed form.
MALFORMED = [
    "", "é", "ロビー", "lobby ", " lobby", "a b", "a/b", "a\\b", "lobby\n", "lobby\r\n", "lo\tbby", "lobby\x00", "lobby%2Fx",
    "\u202elobby", "lobby\u200b", "\uff4cobby", "x" * 129, "a@b", "a?b", "a#b", "*", "p_;__x", "\ud83d\ude00",
]  # fmt: skip


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return decoded


async def raw(api: httpx.AsyncClient, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send a request whose target is not changed in any byte. Returns (status, answer)."""
    address = urlsplit(str(api.base_url))
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = [f"{method} {target} HTTP/1.1", "Host: relay", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        async with asyncio.timeout(15):
            answer = await reader.read()
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1]), answer


async def test_a_crafted_name_stays_in_its_project(world: IsolationWorld) -> None:
    owner, stranger = world.holdings[0], world.holdings[2]
    before = await world.state_of(owner)
    for name in crafted(owner):
        world.livekit.calls.clear()
        made = await world.api.post("/v1/rooms", json={"name": name}, headers=stranger.headers)
        assert (made.status_code, made.json()["room"]) == (201, name)
        # LiveKit's name maps back to the project that created the room, and to exactly this name.
        named = world.livekit.orders("CreateRoom")[0].name
        assert parse_livekit_room(named) == (stranger.project.project_id, stranger.mode, name)
        found = await world.api.get(f"/v1/rooms/{name}", headers=stranger.headers)
        assert (found.status_code, found.json()["room"]) == (200, name)
        listed = (await world.api.get("/v1/rooms", headers=stranger.headers)).json()["rooms"]
        assert name in [room["room"] for room in listed]
        assert not any(room["metadata"] == owner.mark for room in listed)
        gone = await world.api.delete(f"/v1/rooms/{name}", headers=stranger.headers)
        assert gone.status_code == 204
        assert all(reached_name.startswith(stranger.prefix) for reached_name in reached(world.livekit))
    assert await world.state_of(owner) == before


async def test_a_malformed_name_never_reaches_livekit(world: IsolationWorld) -> None:
    stranger = world.holdings[2]
    world.livekit.calls.clear()
    for name in MALFORMED:
        body = json.dumps({"name": name}).encode()
        headers = {**stranger.headers, "Content-Type": "application/json"}
        made = await world.api.post("/v1/rooms", content=body, headers=headers)
        assert (made.status_code, made.json()["code"]) in ((400, "invalid_request"), (400, "invalid_json")), repr(name)
        body = json.dumps({"room": name, "identity": "ada"}).encode()
        minted = await world.api.post("/v1/tokens", content=body, headers=headers)
        assert minted.status_code == 400, repr(name)
        assert "token" not in minted.json()
    assert world.livekit.calls == []


async def test_a_crafted_path_reaches_no_other_resource(world: IsolationWorld) -> None:
    """Encoded slashes, dots, empty parts and double encoding, sent byte for byte."""
    owner = world.holdings[0]
    everything = [await world.state_of(holding) for holding in world.holdings]
    for method, target, status in (
        ("DELETE", "/v1/rooms/lobby%2Fparticipants%2Fada", 404),
        ("DELETE", "/v1/rooms/lobby%2fparticipants/ada", 404),
        ("DELETE", "/v1/rooms/lobby%252Fparticipants%252Fada", 404),
        ("DELETE", "/v1/rooms//lobby", 400),
        ("DELETE", "/v1/rooms/lobby//", 400),
        ("DELETE", "/v1/rooms/lobby/", 400),
        ("PATCH", "/v1/rooms/lobby/", 400),
        ("DELETE", "/v1/rooms/lobby/participants/ada/", 400),
        ("DELETE", "/v1/rooms%2Flobby", 404),
        ("DELETE", "/%2Fv1%2Frooms%2Flobby", 404),
        ("DELETE", "/v1/rooms/lobby/participants%2Fada", 404),
        ("DELETE", "/v1/rooms/lobby/participants/ad%ff", 400),
        ("DELETE", "/v1//rooms/lobby", 400),
        ("DELETE", "/v1/rooms/lobby/participants/", 405),
        ("DELETE", "/v1/rooms/", 405),
        ("DELETE", "/v1/rooms/x/../lobby", 404),
        ("DELETE", "/v1/rooms/x/%2e%2e/lobby", 404),
        ("DELETE", "/v1/rooms/lobby%0A", 404),
        ("DELETE", "/v1/rooms/lobby%00", 404),
        ("DELETE", "/v1/rooms/lobby%20", 404),
        ("DELETE", "/v1/rooms/%F0%9F%98%80", 404),
        ("DELETE", "/v1/rooms/%ff", 400),
        ("DELETE", "/v1/rooms/lobby/participants/ad%C3%A1", 404),
        ("DELETE", "/v1/rooms/lobby;x/participants/ada", 404),
        ("DELETE", "/v1/rooms/..", 404),
        ("DELETE", "/v1/rooms/%2e", 404),
        ("DELETE", f"/v1/rooms/{owner.name('lobby')}", 404),
    ):
        told, answer = await raw(world.api, method, target, owner.headers)
        assert told == status, (target, answer)
    assert [await world.state_of(holding) for holding in world.holdings] == everything


async def test_a_token_grants_one_room_and_no_other_right(world: IsolationWorld) -> None:
    full = {
        "name": "Ada", "metadata": "m", "attributes": {"a": "b"}, "ttl": 60,
        "grants": {"canPublishSources": ["camera"], "canUpdateOwnMetadata": True, "hidden": True},
        "roomConfig": {"name": "other", "maxParticipants": 2, "agents": [{"agentName": "scribe"}]},
    }  # fmt: skip
    for holder in world.holdings:
        for name in (*crafted(world.holdings[0]), ".", ".."):
            for more in ({}, full):
                body = {"room": name, "identity": "ada", **more}
                minted = await world.api.post("/v1/tokens", json=body, headers=holder.headers)
                assert minted.status_code == 200, (name, minted.text)
                claims = claims_of(minted.json()["token"])
                assert set(claims) <= CLAIMS
                assert set(claims["video"]) <= RIGHTS
                assert claims["video"]["room"] == minted.json()["room"] == holder.prefix + name
                assert parse_livekit_room(claims["video"]["room"]) == (holder.project.project_id, holder.mode, name)
                assert claims["video"]["roomJoin"] is True
                assert claims["sub"] == "ada"


async def test_unknown_grants_and_claims_are_refused(world: IsolationWorld) -> None:
    """The fields are everything that livekit-api can put into a token and Relay's tokens do not hold."""
    holder = world.holdings[0]
    body: dict[str, Any] = {"room": "lobby", "identity": "ada"}
    grants = (
        "roomCreate", "roomList", "roomRecord", "roomAdmin", "roomJoin", "room", "ingressAdmin", "recorder", "agent",
        "canSubscribeMetrics", "destinationRoom", "canManageAgentSession", "room_admin", "roomadmin",
    )  # fmt: skip
    for grant in grants:
        answer = await world.api.post("/v1/tokens", json={**body, "grants": {grant: True}}, headers=holder.headers)
        assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (
            400,
            "unknown_field",
            f"grants.{grant}",
        )
    for field in (
        "video",
        "sip",
        "inference",
        "observability",
        "kind",
        "sha256",
        "roomPreset",
        "iss",
        "sub",
        "exp",
        "nbf",
    ):
        answer = await world.api.post("/v1/tokens", json={**body, field: "x"}, headers=holder.headers)
        assert (answer.status_code, answer.json()["param"]) == (400, field)


@pytest.mark.parametrize(
    "egress",
    [
        {"room": {"fileOutputs": [{"filepath": "another-project/recording.mp4"}]}},
        {"room": {"roomName": "p_aaaaaaaaaaaaaaaa__lobby", "customBaseUrl": "http://169.254.169.254/"}},
        {"tracks": {"filepath": "x", "s3": {"bucket": "shared", "accessKey": "a", "secret": "s"}}},
        {"room": {"advanced": {"keyFrameInterval": 10**400}}},
        {},
    ],
)
async def test_a_token_cannot_start_a_recording(world: IsolationWorld, egress: dict[str, Any]) -> None:
    """A recording would go to LiveKit's own storage, beside those of all other projects."""
    body = {"room": "lobby", "identity": "ada", "roomConfig": {"egress": egress}}
    answer = await world.api.post("/v1/tokens", json=body, headers=world.holdings[0].headers)
    assert (answer.status_code, answer.json()["param"]) == (400, "roomConfig.egress")


async def test_a_deeply_nested_egress_is_a_client_error(world: IsolationWorld) -> None:
    """JSON that the parser accepts must not fail later.

    Between the two limits was a depth that was answered with a 500.
    """
    for depth in range(900, 1001):
        nested = '{"a":' * depth + "1" + "}" * depth
        body = '{"room":"lobby","identity":"ada","roomConfig":{"egress":' + nested + "}}"
        headers = {**world.holdings[0].headers, "content-type": "application/json"}
        answer = await world.api.post("/v1/tokens", content=body, headers=headers)
        assert answer.status_code == 400, depth
