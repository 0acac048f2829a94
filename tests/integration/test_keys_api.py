"""`/v1/keys` over HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.cli.keys import list_keys
from services.cli.projects import create_project
from shared.infra.ids import parse_key
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.integration.conftest import Standing, key_of


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


class KeyClient:
    """A client of `/v1/keys` with one key."""

    def __init__(self, api: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self._api, self.headers = api, headers

    async def __call__(self, method: str, path: str = "", **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        return await self._api.request(method, f"/v1/keys{path}", headers=headers, **more)

    async def ok(self, method: str, path: str = "", **more: Any) -> Any:
        answer = await self(method, path, **more)
        assert answer.status_code in (200, 201), answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()

    async def problem(self, method: str, path: str = "", **more: Any) -> tuple[int, str, str | None]:
        answer = await self(method, path, **more)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        return answer.status_code, answer.json()["code"], answer.json().get("param")

    def using(self, key: str) -> "KeyClient":
        return KeyClient(self._api, {"Authorization": f"Bearer {key}"})

    async def me(self) -> str:
        return str(next(key["keyId"] for key in (await self.ok("GET"))["keys"] if key["current"]))


@pytest.fixture
def live(api: httpx.AsyncClient, project: CreatedProject) -> KeyClient:
    return KeyClient(api, key_of(project))


@pytest.fixture
def test_mode(api: httpx.AsyncClient, project: CreatedProject) -> KeyClient:
    return KeyClient(api, key_of(project, "test"))


async def test_a_key_is_created_renamed_and_revoked(live: KeyClient) -> None:
    made = await live.ok("POST", json={"name": "server", "expiresAt": "2030-01-01T01:00:00+01:00"})
    assert parse_key(made["key"]) is not None
    assert made == {
        "key": made["key"],
        "keyId": made["keyId"],
        "name": "server",
        "mode": "live",
        "type": "secret",
        "prefix": "sk_live_",
        "lastFour": made["key"][-4:],
        "state": "active",
        "current": False,
        "createdAt": made["createdAt"],
        "createdBy": "key:" + await live.me(),
        "lastUsedAt": None,
        "expiresAt": "2030-01-01T00:00:00.000Z",
        "revokedAt": None,
        "rotatedTo": None,
    }
    other = live.using(made["key"])
    shown = await other.ok("GET", f"/{made['keyId']}")
    assert shown == {**{k: v for k, v in made.items() if k != "key"}, "current": True}
    assert (await other.ok("PATCH", f"/{made['keyId']}", json={"name": "renamed"}))["name"] == "renamed"
    revoked = await live.ok("DELETE", f"/{made['keyId']}")
    assert [(key["keyId"], key["state"]) for key in revoked["revoked"]] == [(made["keyId"], "revoked")]
    again = await live.ok("DELETE", f"/{made['keyId']}")
    assert again["revoked"][0]["revokedAt"] == revoked["revoked"][0]["revokedAt"]
    assert await other.problem("GET") == (401, "revoked_key", None)


async def test_a_rotated_key_works_for_its_grace_period(live: KeyClient) -> None:
    old = await live.ok("POST", json={"name": "server"})
    new = await live.using(old["key"]).ok("POST", f"/{old['keyId']}/rotate", json={"graceSeconds": 60})
    assert new["createdBy"] == f"key:{old['keyId']}"
    for key in (old, new):
        await live.using(key["key"]).ok("GET")
    shown = await live.ok("GET", f"/{old['keyId']}")
    assert shown["rotatedTo"] == new["keyId"]
    ends = datetime.fromisoformat(shown["expiresAt"])
    assert timedelta(seconds=30) < ends - datetime.now(UTC) <= timedelta(seconds=60)
    assert await live.problem("POST", f"/{old['keyId']}/rotate", json={}) == (409, "key_already_rotated", None)
    last = await live.ok("POST", f"/{new['keyId']}/rotate", json={"graceSeconds": 0})
    assert await live.using(new["key"]).problem("GET") == (401, "revoked_key", None)
    await live.using(last["key"]).ok("GET")
    assert await live.problem("POST", f"/{new['keyId']}/rotate", json={}) == (409, "key_inactive", None)


async def test_revoking_a_leaked_key_revokes_its_successors(live: KeyClient) -> None:
    leaked = await live.ok("POST", json={"name": "leaked"})
    made = await live.using(leaked["key"]).ok("POST", json={"name": "by the thief"})
    successor = await live.using(made["key"]).ok("POST", f"/{made['keyId']}/rotate", json={})
    gone = await live.ok("DELETE", f"/{leaked['keyId']}", params={"andMade": "true"})
    assert [key["keyId"] for key in gone["revoked"]] == [leaked["keyId"], made["keyId"], successor["keyId"]]
    for key in (leaked, made, successor):
        assert (await live.using(key["key"]).problem("GET"))[1] == "revoked_key"
    await live.ok("GET")


async def test_keys_of_another_project_or_mode_are_not_found(
    api: httpx.AsyncClient, live: KeyClient, test_mode: KeyClient, settings: Settings
) -> None:
    stranger = KeyClient(api, key_of(await create_project(settings.database, "stranger")))
    mine = await live.ok("POST", json={"name": "mine"})
    for other in (test_mode, stranger):
        assert mine["keyId"] not in {key["keyId"] for key in (await other.ok("GET"))["keys"]}
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"name": "theirs"}),
            ("POST", "/rotate", {}),
            ("DELETE", "", None),
            ("DELETE", "?andMade=true", None),
        ):
            problem = await other.problem(method, f"/{mine['keyId']}{path}", json=body)
            assert problem == (404, "key_not_found", None)
    assert await live.ok("GET", f"/{mine['keyId']}") == {k: v for k, v in mine.items() if k != "key"}
    assert (await test_mode.ok("POST", json={"name": "x"}))["mode"] == "test"


async def test_pages_are_stable_while_keys_are_created(live: KeyClient) -> None:
    names = [f"key {number}" for number in range(5)]
    for name in names:
        await live.ok("POST", json={"name": name})
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await live.ok("GET", params={"limit": 2, **cursor})
        seen += [key["name"] for key in page["keys"]]
        if "nextCursor" not in page or page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
        await live.ok("POST", json={"name": "late"})
    assert seen == [*reversed(names), "default", "default"]


async def test_no_secret_is_ever_listed(live: KeyClient, settings: Settings, project: CreatedProject) -> None:
    secrets = [
        (await live.ok("POST", json={"name": f"k{n}", "type": kind}))["key"]
        for n, kind in enumerate(("secret", "publishable"))
    ]
    listed = (await live("GET")).text
    info = await list_keys(settings.database, project.project_id)
    for secret in [*secrets, *(key.key for key in project.keys)]:
        assert secret[12:-4] not in listed
        assert secret[12:-4] not in str(info)


async def expiring(client: KeyClient, at: str) -> object:
    return await client.problem("POST", json={"name": "x", "expiresAt": at})


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda c: c.problem("POST", json={}), (400, "missing_field", "name")),
        (lambda c: c.problem("POST", json={"name": ""}), (400, "invalid_request", "name")),
        (lambda c: c.problem("POST", json={"name": " "}), (400, "invalid_request", "name")),
        (lambda c: c.problem("POST", json={"name": "a\0"}), (400, "invalid_request", "name")),
        (lambda c: c.problem("POST", json={"name": "x", "mode": "live"}), (400, "unknown_field", "mode")),
        (lambda c: c.problem("POST", json={"name": "x", "type": "root"}), (400, "invalid_request", "type")),
        (lambda c: expiring(c, "2020-01-01T00:00:00Z"), (400, "invalid_request", "expiresAt")),
        (lambda c: expiring(c, "2030-01-01T00:00:00"), (400, "invalid_request", "expiresAt")),
        (lambda c: expiring(c, "9999-12-31T23:59:59Z"), (400, "invalid_request", "expiresAt")),
        (lambda c: c.problem("POST", "/nosuchkey/rotate", json={"graceSeconds": -1}), (400, "invalid_request", "graceSeconds")),
        (lambda c: c.problem("POST", "/nosuchkey/rotate", json={}), (404, "key_not_found", None)),
        (lambda c: c.problem("DELETE", "/nosuchkey"), (404, "key_not_found", None)),
        (lambda c: c.problem("GET", params={"cursor": "x"}), (400, "invalid_cursor", "cursor")),
    ],
)  # fmt: skip
async def test_bad_input_names_its_field(standing: Standing, ask: Callable[[KeyClient], Any], problem: object) -> None:
    assert await ask(KeyClient(standing.api, key_of(standing.project))) == problem


async def test_only_secret_keys_can_manage_keys(api: httpx.AsyncClient, project: CreatedProject) -> None:
    publishable = KeyClient(api, key_of(project, "live", "publishable"))
    for method, path, body in (("GET", "", None), ("POST", "", {"name": "x"}), ("DELETE", "/x", None)):
        assert await publishable.problem(method, path, json=body) == (403, "publishable_key", None)
        assert await KeyClient(api, {}).problem(method, path, json=body) == (401, "missing_key", None)


async def test_a_repeated_request_creates_no_key_and_stores_no_secret(live: KeyClient, pool: Pool) -> None:
    once = {"Idempotency-Key": "3f1c"}
    made = await live.ok("POST", json={"name": "server"}, headers=once)
    again = await live("POST", json={"name": "server"}, headers=once)
    assert (again.status_code, again.json()["code"]) == (409, "shown_once")
    assert made["keyId"] in again.json()["detail"]
    rotated = await live.ok("POST", f"/{made['keyId']}/rotate", json={}, headers={"Idempotency-Key": "4a2b"})
    again = await live("POST", f"/{made['keyId']}/rotate", json={}, headers={"Idempotency-Key": "4a2b"})
    assert again.json()["code"] == "shown_once"
    assert [key["name"] for key in (await live.ok("GET"))["keys"]].count("server") == 2
    async with pool.acquire() as conn:
        kept = str([tuple(row) for row in await conn.fetch("SELECT * FROM attempt")])
    assert made["keyId"] in kept
    for secret in (made["key"], rotated["key"]):
        assert secret[8:-6] not in kept
