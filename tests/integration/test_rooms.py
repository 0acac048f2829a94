"""`/v1/rooms` and its participants, over HTTP, with a fake LiveKit."""

from base64 import b64encode
from typing import Any

import httpx
import msgspec
import pytest
from livekit.protocol import models

from shared.infra.ids import Mode, livekit_room
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.fake_livekit import FakeFailure, FakeLiveKit, twirp_failure
from tests.http_clients import loopback_client
from tests.integration.conftest import key_of


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


class RoomClient:
    """A client of `/v1/rooms` for one project in one mode."""

    def __init__(self, api: httpx.AsyncClient, project: CreatedProject, mode: Mode = "live") -> None:
        self._api, self._project, self._mode = api, project, mode

    def name(self, room: str) -> str:
        """Return LiveKit's name of a room."""
        return livekit_room(self._project.project_id, self._mode, room)

    async def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**key_of(self._project, self._mode), **more.pop("headers", {})}
        return await self._api.request(method, f"/v1/rooms{path}", headers=headers, **more)

    async def ok(self, method: str, path: str, **more: Any) -> Any:
        answer = await self(method, path, **more)
        assert answer.status_code in (200, 201, 204), answer.text
        assert "__" not in answer.text
        return answer.json() if answer.content else None

    async def problem(self, method: str, path: str, **more: Any) -> tuple[int, str, str | None]:
        """Return (status, code, param)."""
        answer = await self(method, path, **more)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        told = answer.json()
        assert "__" not in answer.text
        assert told["requestId"] == answer.headers["x-request-id"]
        return answer.status_code, told["code"], told.get("param")


@pytest.fixture
def acme(api: httpx.AsyncClient, project: CreatedProject) -> RoomClient:
    return RoomClient(api, project)


async def test_a_room_is_created_read_updated_and_ended(acme: RoomClient, livekit: FakeLiveKit) -> None:
    created = await acme(
        "POST", "", json={"name": "lobby", "maxParticipants": 12, "emptyTimeout": 60, "metadata": "a__b"}
    )
    assert created.status_code == 201
    room = created.json()
    assert room == {
        "room": "lobby",
        "sid": room["sid"],
        "numParticipants": 0,
        "numPublishers": 0,
        "maxParticipants": 12,
        "emptyTimeout": 60,
        "departureTimeout": 20,
        "metadata": "a__b",
        "createdAt": "2026-05-28T20:26:40.000Z",
        "activeRecording": False,
    }
    assert list(livekit.rooms) == [acme.name("lobby")]
    assert (await acme("GET", "/lobby")).json() == {**room, "participants": []}
    assert await acme.ok("PATCH", "/lobby", json={"metadata": "m" * 4096}) == {**room, "metadata": "m" * 4096}
    assert (await acme.ok("PATCH", "/lobby", json={"metadata": ""}))["metadata"] == ""
    assert await acme.ok("GET", "") == {"rooms": [{**room, "metadata": ""}]}
    assert (await acme("DELETE", "/lobby")).status_code == 204
    assert await acme.ok("GET", "") == {"rooms": []}
    assert await acme.problem("DELETE", "/lobby") == (404, "room_not_found", None)


async def test_creating_an_existing_room_returns_it_unchanged(acme: RoomClient) -> None:
    room = await acme.ok("POST", "", json={"name": "lobby", "maxParticipants": 12})
    again = await acme("POST", "", json={"name": "lobby", "maxParticipants": 3, "metadata": "new"})
    assert (again.status_code, again.json()) == (201, room)


async def test_live_and_test_mode_have_separate_rooms(
    api: httpx.AsyncClient, acme: RoomClient, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    test = RoomClient(api, project, "test")
    await acme.ok("POST", "", json={"name": "lobby"})
    await test.ok("POST", "", json={"name": "lobby", "metadata": "test"})
    assert sorted(livekit.rooms) == [f"p_{project.project_id}__lobby", f"t_{project.project_id}__lobby"]
    await test.ok("DELETE", "/lobby")
    assert [room["metadata"] for room in (await acme.ok("GET", ""))["rooms"]] == [""]


async def test_pages_are_stable_while_rooms_are_created_and_ended(acme: RoomClient, livekit: FakeLiveKit) -> None:
    for number in range(25):
        livekit.add_room(acme.name(f"room-{number:02}"))
        livekit.add_room(f"p_someoneelse000000__room-{number:02}")
    assert len((await acme.ok("GET", ""))["rooms"]) == 25
    first = await acme.ok("GET", "", params={"limit": 10})
    assert [room["room"] for room in first["rooms"]] == [f"room-{number:02}" for number in range(10)]
    del livekit.rooms[acme.name("room-09")]
    livekit.add_room(acme.name("room-00-late"))
    livekit.add_room(acme.name("room-10-late"))
    second = await acme.ok("GET", "", params={"limit": 10, "cursor": first["nextCursor"]})
    expected = ["room-10", "room-10-late", *(f"room-{number}" for number in range(11, 19))]
    assert [room["room"] for room in second["rooms"]] == expected
    last = await acme.ok("GET", "", params={"cursor": second["nextCursor"]})
    assert [room["room"] for room in last["rooms"]] == [f"room-{number}" for number in range(19, 25)]
    assert "nextCursor" not in last
    exact = await acme.ok("GET", "", params={"limit": 26})
    assert "nextCursor" not in exact


async def test_participants_are_shown_with_their_tracks_and_permissions(acme: RoomClient, livekit: FakeLiveKit) -> None:
    tracks = [
        {
            "sid": "TR_1",
            "type": "AUDIO",
            "source": "MICROPHONE",
            "name": "mic",
            "mime_type": "audio/opus",
            "muted": True,
        },
        {"sid": "TR_2", "type": "VIDEO", "source": "SCREEN_SHARE", "width": 1280, "height": 720, "simulcast": True},
    ]
    ada = livekit.add_participant(
        acme.name("lobby"),
        "ada",
        name="Ada ❤",
        metadata="m",
        attributes={"role": "host"},
        tracks=tracks,
        is_publisher=True,
    )
    hidden = models.ParticipantPermission(hidden=True, can_publish_sources=[models.TrackSource.CAMERA])
    livekit.add_participant(acme.name("lobby"), "watcher", permission=hidden)
    kinds = models.ParticipantInfo.Kind
    livekit.add_participant(acme.name("lobby"), "EG_1", kind=kinds.EGRESS, joined_at_ms=0)
    livekit.add_participant(acme.name("lobby"), "agent-1", kind=kinds.AGENT)
    livekit.add_participant(acme.name("lobby"), "gone", state=models.ParticipantInfo.State.DISCONNECTED)
    room = await acme.ok("GET", "/lobby")
    people = room["participants"]
    assert [(person["identity"], person["kind"]) for person in people] == [
        ("EG_1", "egress"), ("ada", "standard"), ("agent-1", "agent"), ("watcher", "standard"),
    ]  # fmt: skip
    assert room["numParticipants"] == 3, "a recorder is no participant"
    assert people[1] == {
        "identity": "ada",
        "sid": ada.sid,
        "name": "Ada ❤",
        "kind": "standard",
        "state": "active",
        "metadata": "m",
        "attributes": {"role": "host"},
        "joinedAt": "2026-05-28T20:26:41.500Z",
        "isPublisher": True,
        "permission": {
            "canPublish": True,
            "canSubscribe": True,
            "canPublishData": True,
            "canPublishSources": [],
            "canUpdateOwnMetadata": False,
            "hidden": False,
        },
        "tracks": [
            {
                "sid": "TR_1", "type": "audio", "source": "microphone", "name": "mic", "muted": True,
                "mimeType": "audio/opus", "width": 0, "height": 0, "simulcast": False,
            },
            {
                "sid": "TR_2", "type": "video", "source": "screen_share", "name": "", "muted": False,
                "mimeType": "", "width": 1280, "height": 720, "simulcast": True,
            },
        ],
    }  # fmt: skip
    assert people[3]["permission"]["hidden"] is True
    assert people[3]["permission"]["canPublishSources"] == ["camera"]
    assert await acme.ok("GET", "/lobby/participants/ada") == people[1]
    assert await acme.ok("GET", "/lobby/participants") == {"participants": people}
    page = await acme.ok("GET", "/lobby/participants", params={"limit": 3})
    rest = await acme.ok("GET", "/lobby/participants", params={"limit": 3, "cursor": page["nextCursor"]})
    assert page["participants"] + rest["participants"] == people
    foreign = {"cursor": page["nextCursor"]}
    assert await acme.problem("GET", "", params=foreign) == (400, "invalid_cursor", "cursor")
    assert await acme.problem("GET", "/lobby/participants/gone") == (404, "participant_not_found", None)
    assert await acme.problem("GET", "/hall/participants") == (404, "room_not_found", None)
    assert await acme.problem("GET", "/hall") == (404, "room_not_found", None)


async def test_enum_values_of_a_newer_livekit_are_shown_as_unknown(acme: RoomClient, livekit: FakeLiveKit) -> None:
    ada = livekit.add_participant(acme.name("lobby"), "ada", tracks=[{"sid": "TR_1"}])
    newer = models.ParticipantInfo.FromString(ada.SerializeToString() + b"\x70\x63")  # field 14, kind: 99
    newer.tracks[0].MergeFrom(models.TrackInfo.FromString(b"\x48\x63\x10\x63"))  # source and type: 99
    livekit.people[acme.name("lobby")]["ada"] = newer
    person = await acme.ok("GET", "/lobby/participants/ada")
    assert (person["kind"], person["tracks"][0]["source"], person["tracks"][0]["type"]) == ("unknown",) * 3


async def test_updating_a_participant_keeps_fields_that_are_not_given(acme: RoomClient, livekit: FakeLiveKit) -> None:
    ada = livekit.add_participant(acme.name("lobby"), "ada", name="Ada", metadata="m", attributes={"a": "1", "b": "2"})
    ada.permission.recorder = True  # Relay's API does not show it, and must not remove it
    path = "/lobby/participants/ada"
    changed = await acme.ok("PATCH", path, json={"attributes": {"b": "", "c": "3"}})
    assert (changed["name"], changed["metadata"], changed["attributes"]) == ("Ada", "m", {"a": "1", "c": "3"})
    assert changed["permission"]["canPublish"] is True
    changed = await acme.ok(
        "PATCH", path, json={"permission": {"canPublish": False, "canPublishSources": ["microphone"]}}
    )
    assert changed["permission"] == {
        "canPublish": False,
        "canSubscribe": True,
        "canPublishData": True,
        "canPublishSources": ["microphone"],
        "canUpdateOwnMetadata": False,
        "hidden": False,
    }
    assert ada.permission.recorder is True
    changed = await acme.ok("PATCH", path, json={"permission": {"canPublishSources": None, "hidden": True}})
    assert changed["permission"]["canPublishSources"] == []
    assert changed["permission"]["hidden"] is True
    changed = await acme.ok("PATCH", path, json={"name": "Countess", "metadata": "n"})
    assert (changed["name"], changed["metadata"]) == ("Countess", "n")
    for body, param in (
        ({}, None),
        ({"name": ""}, "name"),
        ({"metadata": ""}, "metadata"),
        ({"attributes": {"a": "x" * 64_001}}, "attributes"),
        ({"permission": {"canPubish": True}}, "permission.canPubish"),
        ({"permission": {"canPublishSources": []}}, "permission.canPublishSources"),
    ):
        status, _, named = await acme.problem("PATCH", path, json=body)
        assert (status, named) == (400, param)
    # 256 characters with more bytes exceed LiveKit's limit. Relay reports it in its own words.
    assert await acme.problem("PATCH", path, json={"name": "❤" * 256}) == (400, "livekit_refused", "name")
    assert await acme.problem("PATCH", "/lobby/participants/bob", json={"name": "B"}) == (
        404,
        "participant_not_found",
        None,
    )


async def test_participants_are_muted_and_removed(acme: RoomClient, livekit: FakeLiveKit) -> None:
    tracks = [
        {"sid": "TR_1", "type": "AUDIO", "source": "MICROPHONE"},
        {"sid": "TR_2", "type": "VIDEO", "source": "CAMERA"},
        {"sid": "TR_3", "type": "VIDEO", "source": "CAMERA"},
        {"sid": "TR_4", "type": "DATA"},
    ]
    livekit.add_participant(acme.name("lobby"), "ada", tracks=tracks)

    async def muted(**body: Any) -> list[str]:
        answer = await acme.ok("POST", "/lobby/participants/ada/mute", json=body)
        assert all(track["muted"] for track in answer["tracks"])
        return [track["sid"] for track in answer["tracks"]]

    assert await muted(trackSid="TR_1") == ["TR_1"]
    assert await muted(source="camera") == ["TR_2", "TR_3"]
    assert await muted() == ["TR_1", "TR_2", "TR_3"]
    for path, body, expected in (
        ("/lobby/participants/ada/mute", {"trackSid": "TR_9"}, (404, "track_not_found", None)),
        ("/lobby/participants/ada/mute", {"source": "screen_share"}, (404, "track_not_found", None)),
        ("/lobby/participants/ada/mute", {"trackSid": "TR_1", "muted": False}, (409, "livekit_conflict", None)),
        ("/lobby/participants/bob/mute", {}, (404, "participant_not_found", None)),
        ("/hall/participants/ada/mute", {}, (404, "participant_not_found", None)),
    ):
        assert await acme.problem("POST", path, json=body) == expected
    assert (await acme("DELETE", "/lobby/participants/ada")).status_code == 204
    assert await acme.problem("DELETE", "/lobby/participants/ada") == (404, "participant_not_found", None)


async def test_data_is_sent_to_some_or_all_participants(acme: RoomClient, livekit: FakeLiveKit) -> None:
    livekit.add_room(acme.name("lobby"))
    await acme.ok("POST", "/lobby/data", json={"data": "héllo"})
    packet = {
        "data": b64encode(b"\x00\xff").decode(), "encoding": "base64", "kind": "lossy", "topic": "chat",
        "destinationIdentities": ["ada", "bob"],
    }  # fmt: skip
    await acme.ok("POST", "/lobby/data", json=packet)
    first, second = livekit.sent
    assert (first.data.decode(), first.kind, first.topic, list(first.destination_identities)) == ("héllo", 0, "", [])
    assert (second.data, second.kind, second.topic) == (b"\x00\xff", 1, "chat")
    assert list(second.destination_identities) == ["ada", "bob"]
    assert first.HasField("topic") is False
    for body, param in (
        ({}, "data"),
        ({"data": "x" * (15 * 1024 + 1)}, "data"),
        ({"data": "é" * (8 * 1024)}, "data"),
        ({"data": "!", "encoding": "base64"}, "data"),
        ({"data": "x", "kind": "best"}, "kind"),
        ({"data": "x", "destinationIdentities": []}, "destinationIdentities"),
    ):
        status, _, named = await acme.problem("POST", "/lobby/data", json=body)
        assert (status, named) == (400, param)
    assert await acme.problem("POST", "/hall/data", json={"data": "x"}) == (404, "room_not_found", None)
    assert len(livekit.sent) == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "lobby\n"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "é"}, "name"),
        ({"name": 7}, "name"),
        ({"name": "lobby", "maxParticipants": 0}, "maxParticipants"),
        ({"name": "lobby", "maxParticipants": 10_001}, "maxParticipants"),
        ({"name": "lobby", "maxParticipants": 2.5}, "maxParticipants"),
        ({"name": "lobby", "emptyTimeout": 0}, "emptyTimeout"),
        ({"name": "lobby", "emptyTimeout": 86_401}, "emptyTimeout"),
        ({"name": "lobby", "departureTimeout": -1}, "departureTimeout"),
        ({"name": "lobby", "metadata": "x" * 4097}, "metadata"),
        ({"name": "lobby", "metadata": {}}, "metadata"),
        ({"name": "lobby", "egress": {}}, "egress"),
    ],
)
async def test_a_bad_room_names_its_field_and_never_reaches_livekit(
    acme: RoomClient, livekit: FakeLiveKit, body: dict[str, Any], param: str
) -> None:
    status, _, named = await acme.problem("POST", "", json=body)
    assert (status, named) == (400, param)
    assert livekit.calls == []


async def test_a_bad_path_or_page_names_its_field(acme: RoomClient, livekit: FakeLiveKit) -> None:
    for path, params, expected in (
        ("/" + "x" * 257, {}, "name"),
        ("/lobby/participants/" + "x" * 257, {}, "identity"),
        ("", {"limit": "0"}, "limit"),
        ("", {"limit": "1001"}, "limit"),
        ("", {"limit": "ten"}, "limit"),
        ("", {"cursor": "!"}, "cursor"),
        ("", {"cursor": "_w"}, "cursor"),
        ("", {"limt": "1"}, "limt"),
        ("/lobby", {"expand": "1"}, "expand"),
    ):
        status, _, named = await acme.problem("GET", path, params=params)
        assert (status, named) == (400, expected), path
    assert livekit.calls == []


ENDPOINTS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"name": "lobby"}),
    ("GET", "/lobby", None),
    ("PATCH", "/lobby", {"metadata": "m"}),
    ("DELETE", "/lobby", None),
    ("POST", "/lobby/data", {"data": "x"}),
    ("GET", "/lobby/participants", None),
    ("GET", "/lobby/participants/ada", None),
    ("PATCH", "/lobby/participants/ada", {"name": "A"}),
    ("DELETE", "/lobby/participants/ada", None),
    ("POST", "/lobby/participants/ada/mute", {}),
]


async def test_livekit_failures_are_reported_without_secrets(acme: RoomClient, livekit: FakeLiveKit) -> None:
    livekit.add_participant(acme.name("lobby"), "ada", tracks=[{"sid": "TR_1"}])
    for failure, expected in (
        (FakeFailure(500, b"Traceback: p_x__lobby", "text/plain"), (502, "livekit_failed", None)),
        (FakeFailure(200, b"<html>", "text/html"), (502, "livekit_failed", None)),
        (FakeFailure(401, b"invalid token: eyJh", "text/plain"), (502, "livekit_credentials", None)),
        (twirp_failure(408, "deadline_exceeded"), (504, "livekit_timeout", None)),
    ):
        livekit.failure = failure
        for method, path, body in ENDPOINTS:
            assert await acme.problem(method, path, json=body) == expected, (method, path)


async def test_without_livekit_rooms_fail_with_502_and_tokens_work(settings: Settings, project: CreatedProject) -> None:
    from tests.integration.conftest import serving
    from tests.ports import free_port

    settings = msgspec.structs.replace(settings, livekit_api_url=f"http://127.0.0.1:{free_port()}")
    async with serving(settings) as url, loopback_client(url) as api:
        assert await RoomClient(api, project).problem("GET", "") == (502, "livekit_unreachable", None)
        body = {"room": "lobby", "identity": "ada"}
        assert (await api.post("/v1/tokens", json=body, headers=key_of(project))).status_code == 200
