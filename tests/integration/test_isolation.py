"""No key reaches another project or mode: every endpoint is called with the ids of another owner.

The endpoints come from the routes of the application. An endpoint without a case here fails the suite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from litestar import Router
from litestar.routes import HTTPRoute

from services.api.routes import OPEN, V1
from services.cli.projects import create_project
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.fake_livekit import FakeLiveKit
from tests.integration.isolation import Holding, IsolationWorld, build_world, reached

Asked = Callable[[Holding], Any]


def nothing(_owner: Holding) -> None:
    return None


class Case(NamedTuple):
    """A request for a resource of ``owner``: the values of the path, the query and the body.

    ``refused`` is the code that a stranger gets. It is None where strangers see or change only their own resources.
    """

    path: Asked = nothing
    query: Asked = nothing
    body: Asked = nothing
    refused: str | None = None


def of_room(owner: Holding) -> dict[str, str]:
    return {"name": owner.room}


def of_person(owner: Holding) -> dict[str, str]:
    return {"name": owner.room, "identity": owner.identity}


def of_key(owner: Holding) -> dict[str, str]:
    return {"key_id": owner.key_id}


PERSON = "/v1/rooms/{name}/participants/{identity}"
# In an order that works for an owner: requests that delete come last.
CASES: dict[tuple[str, str], list[Case]] = {
    ("POST", "/v1/tokens"): [Case(body=lambda owner: {"room": owner.room, "identity": owner.identity})],
    ("GET", "/v1/rooms"): [Case(), Case(query=lambda _: {"limit": 1})],
    ("POST", "/v1/rooms"): [Case(body=lambda owner: {"name": owner.room, "maxParticipants": 7})],
    ("GET", "/v1/rooms/{name}"): [Case(of_room, refused="room_not_found")],
    ("PATCH", "/v1/rooms/{name}"): [Case(of_room, body=lambda _: {"metadata": "new"}, refused="room_not_found")],
    ("POST", "/v1/rooms/{name}/data"): [
        Case(of_room, body=lambda _: {"data": "x"}, refused="room_not_found"),
        # A room that every project has, and a participant who is only in the owner's.
        Case(lambda _: {"name": "lobby"}, body=lambda owner: {"data": "x", "destinationIdentities": [owner.identity]}),
    ],
    ("GET", "/v1/rooms/{name}/participants"): [
        Case(of_room, refused="room_not_found"),
        Case(lambda _: {"name": "lobby"}),
    ],
    ("GET", PERSON): [Case(of_person, refused="participant_not_found")],
    ("PATCH", PERSON): [
        Case(of_person, body=lambda _: {"name": "new"}, refused="participant_not_found"),
        Case(of_person, body=lambda _: {"permission": {"canPublish": False}}, refused="participant_not_found"),
    ],
    ("POST", PERSON + "/mute"): [
        Case(of_person, body=lambda _: {}, refused="participant_not_found"),
        Case(of_person, body=lambda owner: {"trackSid": owner.track}, refused="participant_not_found"),
    ],
    ("GET", "/v1/usage"): [
        Case(),
        Case(query=lambda _: {"groupBy": "room", "period": "7d"}),
        Case(query=lambda _: {"groupBy": "identity", "period": "7d"}),
        Case(query=lambda _: {"granularity": "hour", "period": "today"}),
    ],
    ("GET", "/v1/sessions"): [
        Case(),
        Case(query=lambda owner: {"room": owner.room}),
        Case(query=lambda owner: {"room": owner.name(owner.room)}),
        Case(query=lambda _: {"limit": 1}),
    ],
    ("GET", "/v1/sessions/{sid}"): [Case(lambda owner: {"sid": owner.session}, refused="session_not_found")],
    ("GET", "/v1/events"): [
        Case(),
        Case(query=lambda owner: {"room": owner.room}),
        Case(query=lambda owner: {"session": owner.session}),
        Case(query=lambda _: {"limit": 1}),
    ],
    ("GET", "/v1/keys"): [Case(), Case(query=lambda _: {"limit": 1})],
    ("POST", "/v1/keys"): [Case(body=lambda _: {"name": "one more"})],
    ("GET", "/v1/keys/{key_id}"): [Case(of_key, refused="key_not_found")],
    ("PATCH", "/v1/keys/{key_id}"): [Case(of_key, body=lambda _: {"name": "new"}, refused="key_not_found")],
    ("POST", "/v1/keys/{key_id}/rotate"): [Case(of_key, body=lambda _: {}, refused="key_not_found")],
    ("DELETE", "/v1/keys/{key_id}"): [
        Case(of_key, refused="key_not_found"),
        Case(of_key, query=lambda _: {"andMade": "true"}, refused="key_not_found"),
    ],
    ("DELETE", PERSON): [Case(of_person, refused="participant_not_found")],
    ("DELETE", "/v1/rooms/{name}"): [Case(of_room, refused="room_not_found")],
}
# Endpoints without data of a project. Each has its own access rule.
WITHOUT_A_PROJECT = {
    ("POST", "/api/webhooks/livekit"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}


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


def endpoints() -> set[tuple[str, str]]:
    """Return (method, path with the names of its parameters) of every route of the API."""
    routes = [*Router("/v1", route_handlers=V1).routes, *Router("/", route_handlers=OPEN).routes]
    return {
        (method, route.path_format)
        for route in routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    }


def test_every_endpoint_has_a_case() -> None:
    known = set(CASES) | WITHOUT_A_PROJECT
    assert endpoints() - known == set(), "an endpoint without a case: say in CASES how a stranger would try it"
    assert known - endpoints() == set(), "a case without its endpoint"


async def test_documented_endpoints_are_those_with_cases(api: httpx.AsyncClient) -> None:
    described = (await api.get("/openapi.json")).json()["paths"]
    served = {(method.upper(), path) for path, methods in described.items() for method in methods if path != "/metrics"}
    assert {(method, path) for method, path in served if path.startswith("/v1/")} == set(CASES)


async def ask(
    world: IsolationWorld, asker: Holding, owner: Holding, endpoint: tuple[str, str], case: Case
) -> httpx.Response:
    """Request a resource of ``owner`` with the key of ``asker``."""
    method, template = endpoint
    path = template.format(**(case.path(owner) or {}))
    body = case.body(owner)
    return await world.api.request(method, path, params=case.query(owner), json=body, headers=asker.headers)


def sent(answer: httpx.Response) -> str:
    return answer.request.url.path + str(answer.request.url.params) + answer.request.content.decode()


async def test_a_stranger_sees_and_changes_nothing(world: IsolationWorld) -> None:
    for stranger, owner in world.pairs():
        before = await world.state_of(owner)
        for endpoint, cases in CASES.items():
            for case in cases:
                where = (endpoint, stranger.mark, owner.mark)
                world.livekit.calls.clear()
                answer = await ask(world, stranger, owner, endpoint, case)
                if case.refused is None:
                    assert answer.status_code < 300, (where, answer.text)
                else:
                    assert (answer.status_code, answer.json().get("code")) == (404, case.refused), (where, answer.text)
                told = {secret for secret in owner.secrets if secret in answer.text} - {
                    secret for secret in owner.secrets if secret in sent(answer)
                }
                assert told == set(), (where, answer.text)
                assert await world.state_of(owner) == before, where
                assert all(name.startswith(stranger.prefix) for name in reached(world.livekit)), where
                # Remove the room of the same name that the stranger may have created in their own project.
                world.livekit.rooms.pop(stranger.name(owner.room), None)


async def test_an_owner_can_make_every_request(world: IsolationWorld) -> None:
    """Otherwise the requests of strangers may have failed for another reason."""
    owner = world.holdings[0]
    for endpoint, cases in CASES.items():
        for case in cases[:1]:
            answer = await ask(world, owner, owner, endpoint, case)
            assert answer.status_code < 300, (endpoint, answer.text)


async def test_a_cursor_of_another_project_reveals_nothing(world: IsolationWorld) -> None:
    """A request with a cursor of another project is refused or returns the caller's own page."""
    listings = ["/v1/rooms", "/v1/sessions", "/v1/events", "/v1/keys", "/v1/rooms/lobby/participants"]
    for owner in world.holdings:
        world.livekit.add_participant(owner.name("lobby"), "zoe", metadata=owner.mark)
    for stranger, owner in world.pairs():
        for path in listings:
            page = await world.api.get(path, params={"limit": 1}, headers=owner.headers)
            cursor = page.json()["nextCursor"]
            answer = await world.api.get(path, params={"limit": 50, "cursor": cursor}, headers=stranger.headers)
            assert answer.status_code in (200, 400), answer.text
            assert not any(secret in answer.text for secret in owner.secrets), answer.text


async def test_a_key_created_by_a_key_belongs_to_the_same_project_and_mode(world: IsolationWorld) -> None:
    for owner in world.holdings:
        made = await world.api.post("/v1/keys", json={"name": "made"}, headers=owner.headers)
        headers = {"Authorization": f"Bearer {made.json()['key']}"}
        rooms = (await world.api.get("/v1/rooms", headers=headers)).json()["rooms"]
        assert sorted(room["room"] for room in rooms) == ["lobby", owner.room]
        assert {room["metadata"] for room in rooms} == {owner.mark}


async def test_rooms_of_no_project_are_not_listed(world: IsolationWorld) -> None:
    """Rooms of LiveKit's other users, of a deleted project, and with names that only look like Relay's."""
    some = world.holdings[0].project.project_id
    strangers = [
        "lobby", "nobodys", "p_aaaaaaaaaaaaaaaa__gone", f"x_{some}__other", f"p_{some}_single", f"P_{some}__upper",
        f"p_{some}__", f"p_{some[:-1]}__shorter", f"p_{some}x__longer", f" p_{some}__spaced",
    ]  # fmt: skip
    for name in strangers:
        world.livekit.add_room(name, metadata="of-nobody")
    for owner in world.holdings:
        answer = await world.api.get("/v1/rooms", headers=owner.headers)
        assert sorted(room["room"] for room in answer.json()["rooms"]) == ["lobby", owner.room]
        assert "of-nobody" not in answer.text
