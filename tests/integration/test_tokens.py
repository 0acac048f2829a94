"""`POST /v1/tokens`, its keys and its errors, over HTTP."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from livekit import api as livekit_api

from services.cli.keys import create_key, revoke_key
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.http_clients import loopback_client
from tests.integration.conftest import Standing, key_of, serving

pytestmark = pytest.mark.filterwarnings("ignore:The HMAC key is:Warning")  # the development secret is short


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


def verified(answer: httpx.Response) -> livekit_api.access_token.Claims:
    return livekit_api.TokenVerifier("devkey", "secret").verify(answer.json()["token"])


async def mint(api: httpx.AsyncClient, headers: dict[str, str], **fields: Any) -> httpx.Response:
    return await api.post("/v1/tokens", json={"room": "lobby", "identity": "ada", **fields}, headers=headers)


async def test_a_token_grants_joining_its_room_and_nothing_else(
    api: httpx.AsyncClient, project: CreatedProject
) -> None:
    for mode, prefix in (("live", "p"), ("test", "t")):
        headers = key_of(project, mode)  # type: ignore[arg-type]  # a loop over literals loses their type
        answer = await mint(api, headers)
        assert answer.status_code == 200
        room = f"{prefix}_{project.project_id}__lobby"
        assert {k: v for k, v in answer.json().items() if k in ("url", "room", "identity")} == {
            "url": "ws://127.0.0.1:7880",
            "room": room,
            "identity": "ada",
        }
        claims = verified(answer)
        assert claims.identity == "ada"
        assert claims.video == livekit_api.VideoGrants(room_join=True, room=room)
        assert claims.sip == livekit_api.SIPGrants()
        assert claims.room_config is None


async def test_every_field_is_in_the_token(api: httpx.AsyncClient, project: CreatedProject) -> None:
    answer = await mint(
        api,
        key_of(project),
        name="Ada ❤",
        ttl=60,
        metadata='{"a": 1}',
        attributes={"role": "host"},
        grants={
            "canPublish": True,
            "canSubscribe": False,
            "canPublishData": False,
            "canPublishSources": ["camera", "screen_share"],
            "canUpdateOwnMetadata": True,
            "hidden": True,
        },
        roomConfig={"maxParticipants": 4, "agents": [{"agentName": "scribe", "metadata": "m"}]},
    )
    claims = verified(answer)
    assert (claims.name, claims.metadata, claims.attributes) == ("Ada ❤", '{"a": 1}', {"role": "host"})
    assert claims.video is not None
    assert claims.video.can_subscribe is False
    assert claims.video.can_publish_sources == ["camera", "screen_share"]
    assert claims.video.hidden is True
    assert claims.room_config is not None
    assert claims.room_config.max_participants == 4
    assert claims.room_config.agents[0].agent_name == "scribe"


async def test_ttl_is_capped(api: httpx.AsyncClient, project: CreatedProject) -> None:
    import jwt

    began = int(time.time())
    for given, expected in ((None, 3600), (60, 60), (21600, 21600), (21601, 21600), (10**15, 21600)):
        answer = await mint(api, key_of(project), **({} if given is None else {"ttl": given}))
        claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
        assert claims["exp"] - claims["nbf"] == expected
        assert began <= claims["nbf"] <= time.time()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"room": None}, "room", "invalid_request"),
        ({"room": ""}, "room", "invalid_request"),
        ({"room": "a b"}, "room", "invalid_request"),
        ({"room": "lobby\n"}, "room", "invalid_request"),
        ({"room": "é"}, "room", "invalid_request"),
        ({"room": "x" * 129}, "room", "invalid_request"),
        ({"room": 7}, "room", "invalid_request"),
        ({"room": "a@b"}, "room", "invalid_request"),
        ({"identity": " "}, "identity", "invalid_request"),
        ({"identity": "a\nb"}, "identity", "invalid_request"),
        ({"identity": "a\x00b"}, "identity", "invalid_request"),
        ({"identity": "a\u202eb"}, "identity", "invalid_request"),
        ({"identity": "x" * 257}, "identity", "invalid_request"),
        ({"identity": "é" * 129}, "identity", "invalid_request"),
        ({"ttl": 0}, "ttl", "invalid_request"),
        ({"ttl": -5}, "ttl", "invalid_request"),
        ({"ttl": "60"}, "ttl", "invalid_request"),
        ({"name": "x" * 257}, "name", "invalid_request"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_request"),
        ({"metadata": "x" * 64_001}, "metadata", "invalid_request"),
        ({"attributes": {"a": 1}}, "attributes[...]", "invalid_request"),
        ({"attributes": {"a": "x" * 64_000}}, "attributes", "invalid_request"),
        ({"grants": {"canPubish": False}}, "grants.canPubish", "unknown_field"),
        ({"grants": {"canPublish": "no"}}, "grants.canPublish", "invalid_request"),
        ({"grants": {"canPublishSources": []}}, "grants.canPublishSources", "invalid_request"),
        ({"grants": {"canPublishSources": ["webcam"]}}, "grants.canPublishSources[0]", "invalid_request"),
        ({"grants": {"roomAdmin": True}}, "grants.roomAdmin", "unknown_field"),
        ({"Room": "x"}, "Room", "unknown_field"),
        ({"roomConfig": {"nonsense": 1}}, "roomConfig.nonsense", "unknown_field"),
        ({"roomConfig": {"maxParticipants": -1}}, "roomConfig.maxParticipants", "invalid_request"),
        ({"roomConfig": {"maxParticipants": 10_001}}, "roomConfig.maxParticipants", "invalid_request"),
        ({"roomConfig": {"emptyTimeout": 86_401}}, "roomConfig.emptyTimeout", "invalid_request"),
        ({"roomConfig": {"departureTimeout": 2**32 - 1}}, "roomConfig.departureTimeout", "invalid_request"),
        ({"roomConfig": {"agents": [{"agentName": 7}]}}, "roomConfig.agents[0].agentName", "invalid_request"),
        ({"roomConfig": {"egress": {"nonsense": 1}}}, "roomConfig.egress", "invalid_request"),
        (
            {"roomConfig": {"egress": {"room": {"fileOutputs": [{"s3": {"secret": "s"}}]}}}},
            "roomConfig.egress",
            "invalid_request",
        ),
    ],
)
async def test_bad_input_names_its_field(standing: Standing, fields: dict[str, Any], param: str, code: str) -> None:
    answer = await mint(standing.api, key_of(standing.project), **fields)
    problem = answer.json()
    assert (answer.status_code, problem["param"], problem["code"]) == (400, param, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_missing_fields_and_malformed_bodies_are_refused(api: httpx.AsyncClient, project: CreatedProject) -> None:
    headers = key_of(project)
    answer = await api.post("/v1/tokens", json={"room": "lobby"}, headers=headers)
    assert (answer.json()["code"], answer.json()["param"]) == ("missing_field", "identity")
    for content, code in (
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[]", "invalid_request"),
    ):
        answer = await api.post("/v1/tokens", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    answer = await api.post("/v1/tokens", content=b" " * 300_000, headers=headers)
    assert answer.status_code == 413


async def test_each_kind_of_invalid_key_has_its_own_code(
    api: httpx.AsyncClient, project: CreatedProject, settings: Settings
) -> None:
    good = key_of(project)["Authorization"]
    revoked = await create_key(settings.database, project.project_id, "live", "secret", "old")
    await revoke_key(settings.database, revoked.key_id)
    last = "A" if good[-1] != "A" else "B"
    from shared.infra.ids import new_key

    for authorization, status, code in (
        (None, 401, "missing_key"),
        ("Basic abc", 401, "malformed_key"),
        ("Bearer", 401, "malformed_key"),
        ("Bearer sesame", 401, "malformed_key"),
        (good[:-1] + last, 401, "mistyped_key"),
        (good[:-1], 401, "mistyped_key"),
        ("Bearer " + new_key("live", "secret"), 401, "unknown_key"),
        ("Bearer " + revoked.key, 401, "revoked_key"),
        (key_of(project, "live", "publishable")["Authorization"], 403, "publishable_key"),
    ):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await mint(api, headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "token" not in answer.json()


@pytest.mark.usefixtures("few_routes")
async def test_revocation_reaches_every_process_within_a_second(settings: Settings, project: CreatedProject) -> None:
    key = await create_key(settings.database, project.project_id, "live", "secret", "short-lived")
    headers = {"Authorization": f"Bearer {key.key}"}
    async with (
        serving(settings) as one,
        serving(settings) as two,
        loopback_client() as client,
    ):
        body = {"room": "lobby", "identity": "ada"}
        for url in (one, two, one, two):
            assert (await client.post(f"{url}/v1/tokens", json=body, headers=headers)).status_code == 200
        await revoke_key(settings.database, key.key_id)
        deadline = time.monotonic() + 1.0
        for url in (one, two):
            sent = time.monotonic()
            while (await client.post(f"{url}/v1/tokens", json=body, headers=headers)).status_code == 200:
                assert sent < deadline, "the revoked key still works after a second"
                await asyncio.sleep(0.01)
                sent = time.monotonic()
