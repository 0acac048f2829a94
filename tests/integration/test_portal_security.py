"""Every page and form of the portal, from the route table, for users without the needed rights.

The users are an anonymous user, a viewer, a member of another project, and an account that is not an administrator. The
module also tests forms from other sites, redirects, and text that others can write into pages.
"""

import functools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from services.api.app import create_app
from services.local.embedded import EmbeddedServers
from shared.infra.postgres.pool import Pool, create_pool, remember_times
from shared.infra.settings import Settings, parse_database_url
from tests.conftest import fresh_database, settings_for
from tests.http_clients import loopback_client
from tests.integration.conftest import serving
from tests.portal_browser import PASSWORD, Browser

SCRIPT = "<script>alert(1)</script>"
# These answer the same to everybody, without personal data.
STATIC = {"/favicon.ico", "/static/{version}/{name}"}
TABLES = (
    "account", "portal_session", "membership", "invitation", "audit_log", "project", "api_key", "set_aside_event",
    "webhook_inbox",
)  # fmt: skip


class Route(NamedTuple):
    method: str
    path: str
    opt: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_public(self) -> bool:
        return bool(self.opt.get("public"))

    @property
    def of_project(self) -> bool:
        return "{project_id}" in self.path

    @property
    def role(self) -> str:
        return str(self.opt.get("role") or ("viewer" if self.method == "GET" else "admin"))


@functools.cache
def portal_routes() -> list[Route]:
    app: Any = create_app(settings_for(parse_database_url("postgresql://nobody@127.0.0.1/none"), "redis://127.0.0.1:1"))
    while not isinstance(app, Litestar):
        app = app._app
    found = []
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler, _ in route.route_handler_map.values():
                if _is_portals(handler):
                    path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
                    found += [Route(method, path, handler.opt) for method in sorted(handler.http_methods)]
    return [route for route in found if route.method in ("GET", "POST") and route.path not in STATIC]


def _is_portals(handler: HTTPRouteHandler) -> bool:
    return str(handler.fn.__module__).startswith("services.api.portal")


class Stage(NamedTuple):
    """Ada administers the instance and owns a project. Vera views it. Oscar owns another project only."""

    url: str
    settings: Settings
    pool: Pool
    ada: Browser
    vera: Browser
    oscar: Browser
    project: str
    ids: dict[str, str]

    def fill(self, path: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: self.ids.get(match[1], "unknown"), path)


@asynccontextmanager
async def staged(settings: Settings) -> AsyncIterator[Stage]:
    async with (
        create_pool(settings.database, "tests", init=remember_times) as pool,
        serving(settings) as url,
        Browser(url) as ada,
        Browser(url) as vera,
        Browser(url) as oscar,
    ):
        await ada.sign_up("ada")
        project = await ada.create_project("acme")
        await vera.sign_up("vera", await ada.invitation(project, "viewer"))
        other = await ada.create_project("other")
        await oscar.sign_up("oscar", await ada.invitation(other, "owner"))
        ids = {
            "project_id": project,
            "account_id": await pool.fetchval("SELECT id FROM account WHERE name = 'vera'"),
            "key_id": await pool.fetchval(
                "SELECT id FROM api_key WHERE project_id = $1 AND mode = 'live' LIMIT 1", project
            ),
            "secret": "not-a-secret",
            "event_id": "1",
        }
        yield Stage(url, settings, pool, ada, vera, oscar, project, ids)


@pytest.fixture(scope="module")
async def stage(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[Stage]:
    """One instance for all tests of this module that leave it as they found it."""
    with fresh_database(servers, migrated_template) as database:
        async with staged(settings_for(database, servers.redis_url)) as made:
            yield made


@pytest.fixture
async def changed_stage(settings: Settings) -> AsyncIterator[Stage]:
    """An instance that its test changes."""
    async with staged(settings) as made:
        yield made


async def everything(pool: Pool) -> list[Any]:
    """Return the rows of all tables that a form could change, without the time a session was last seen."""
    rows = []
    for table in TABLES:
        hidden = "- 'seen_at' - 'expires_at'" if table == "portal_session" else ""
        rows.append(await pool.fetchval(f"SELECT json_agg(to_jsonb(t) {hidden} ORDER BY t::text) FROM {table} t"))  # noqa: S608
    return rows


async def ask(browser: Browser, route: Route, path: str) -> httpx.Response:
    """Send the request with a valid form token, so that only the user's rights decide."""
    if route.method == "GET":
        return await browser.get(path)
    return await browser.submit(path, name="x", role="owner", note="x", made="yes", password=PASSWORD)


async def test_the_route_table_lists_all_portal_routes() -> None:
    routes = portal_routes()
    assert len(routes) > 30
    assert {"/", "/sign-in", "/projects/{project_id}", "/projects/{project_id}/keys/{key_id}/revoke"} <= {
        route.path for route in routes
    }
    public = {str(route) for route in routes if route.is_public}
    assert public == {
        "GET /", "GET /sign-in", "POST /sign-in", "POST /sign-out", "GET /sign-up", "POST /sign-up",
        "GET /invitations/{secret}", "POST /invitations/{secret}",
    }  # fmt: skip


async def test_an_anonymous_user_is_sent_to_sign_in_and_changes_nothing(stage: Stage) -> None:
    before = await everything(stage.pool)
    async with Browser(stage.url) as nobody:
        await nobody.get("/sign-in")
        for route in portal_routes():
            if not route.is_public:
                answer = await ask(nobody, route, stage.fill(route.path))
                assert answer.status_code == 303, str(route)
                assert answer.headers["location"].startswith("/sign-in"), str(route)
                assert answer.text == "", str(route)
    assert await everything(stage.pool) == before


async def test_a_member_of_another_project_finds_nothing(stage: Stage) -> None:
    """The answer is the same as for a project that does not exist."""
    before = await everything(stage.pool)
    for route in portal_routes():
        if route.of_project:
            answer = await ask(stage.oscar, route, stage.fill(route.path))
            assert answer.status_code == 404, str(route)
            assert "acme" not in answer.text, str(route)
    assert await everything(stage.pool) == before


async def test_ids_of_another_project_are_not_found_in_the_own_project(stage: Stage) -> None:
    """An owner puts ids of another project (keys, members and the like) into paths of the own project."""
    own = await stage.pool.fetchval("SELECT id FROM project WHERE name = 'other'")
    before = await everything(stage.pool)
    foreign = ("key_id", "account_id", "sid", "room", "identity", "event_id", "invitation_id")
    seen = 0
    for route in portal_routes():
        if route.of_project and any(f"{{{name}}}" in route.path for name in foreign):
            path = stage.fill(route.path.replace("{project_id}", own))
            answer = await ask(stage.oscar, route, path)
            assert answer.status_code in (404, 422, 502), f"{route}: {answer.status_code}"
            seen += 1
    await stage.oscar.get(f"/projects/{own}/members")
    invitation = await stage.pool.fetchval("SELECT id FROM invitation WHERE project_id = $1", stage.project)
    answer = await stage.oscar.submit(f"/projects/{own}/members/withdraw", invitation=invitation)
    assert answer.status_code == 404
    assert seen >= 6
    assert await everything(stage.pool) == before


async def test_a_viewer_only_reads(stage: Stage) -> None:
    before = await everything(stage.pool)
    reads = writes = 0
    for route in portal_routes():
        if route.of_project and not route.path.endswith(("/live", "/remove")):
            answer = await ask(stage.vera, route, stage.fill(route.path))
            if route.role == "viewer":
                assert answer.status_code in (200, 404, 422, 502), f"{route}: {answer.status_code}"
                reads += 1
            else:
                assert answer.status_code == 403, str(route)
                writes += 1
    assert reads >= 8
    assert writes >= 8
    assert await everything(stage.pool) == before


async def test_a_viewer_sees_no_form_except_sign_out(stage: Stage) -> None:
    for page in ("", "/keys", "/settings", "/members", "/quickstart", "/usage"):
        text = (await stage.vera.get(f"/projects/{stage.project}{page}")).text
        assert re.findall(r'method="post" action="([^"]*)"', text) == ["/sign-out"], page


async def test_instance_pages_are_not_found_for_non_administrators(stage: Stage) -> None:
    before = await everything(stage.pool)
    for route in portal_routes():
        if route.path.startswith("/instance"):
            assert route.opt.get("instance_admin"), str(route)
            answer = await ask(stage.vera, route, stage.fill(route.path))
            assert answer.status_code == 404, str(route)
    assert await everything(stage.pool) == before


async def test_every_form_requires_its_token(stage: Stage) -> None:
    before = await everything(stage.pool)
    another = stage.oscar.form_token
    for route in portal_routes():
        if route.method == "POST":
            for fields in ({}, {"form_token": ""}, {"form_token": another}, {"form_token": "ä" * 43}):
                answer = await stage.ada.client.post(stage.fill(route.path), data={"name": "x", **fields})
                assert answer.status_code == 403, f"{route} with {fields}"
    assert await everything(stage.pool) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_form_from_another_site_is_refused_even_with_its_token(stage: Stage, headers: dict[str, str]) -> None:
    await stage.ada.get("/account")
    fields = {"form_token": stage.ada.form_token, "name": "mallory"}
    answer = await stage.ada.client.post("/account/name", data=fields, headers=headers)
    assert answer.status_code == 403
    own = await stage.ada.client.post("/account/name", data=fields, headers={"origin": stage.url})
    assert own.status_code == 303


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
        "http:evil.example",
        " //evil.example",
        "/%0d%0aset-cookie:a=b\r\nx: y",
        "/ä",
        "",
    ],
)
async def test_signing_in_never_redirects_to_another_site(stage: Stage, wanted: str) -> None:
    async with Browser(stage.url) as ada:
        location = (await ada.sign_in("ada", wanted=wanted)).headers["location"]
        assert location == "/" or (location.startswith("/%0d%0a") and "\n" not in location)
        shown = await ada.get("/sign-in", next=wanted)
        assert shown.headers["location"] == location


async def test_signing_in_redirects_to_the_requested_page(stage: Stage) -> None:
    async with Browser(stage.url) as ada:
        asked = await ada.get(f"/projects/{stage.project}/usage?period=7d&mode=test")
        form = await ada.get(asked.headers["location"])
        wanted = re.search(r'name="next" value="([^"]+)"', form.text)
        assert wanted is not None
        answer = await ada.sign_in("ada", wanted=wanted[1].replace("&amp;", "&"))
        assert answer.headers["location"] == f"/projects/{stage.project}/usage?period=7d&mode=test"


async def test_every_page_has_strict_security_headers(stage: Stage) -> None:
    for route in portal_routes():
        if route.method == "GET" and not route.path.endswith("/live"):
            headers = (await stage.ada.get(stage.fill(route.path))).headers
            assert "script-src 'self'" in headers["content-security-policy"], str(route)
            assert "default-src 'none'" in headers["content-security-policy"], str(route)
            assert "unsafe" not in headers["content-security-policy"], str(route)
            assert "frame-ancestors 'none'" in headers["content-security-policy"], str(route)
            assert headers["x-content-type-options"] == "nosniff", str(route)
            assert headers["cache-control"] == "no-store", str(route)
            assert headers["referrer-policy"] == "same-origin", str(route)


async def test_pages_have_no_inline_code_and_no_external_resources(stage: Stage) -> None:
    for route in portal_routes():
        if route.method == "GET" and not route.path.endswith(("/live", ".csv")):
            text = (await stage.ada.get(stage.fill(route.path))).text
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text), str(route)
            loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', text)
            assert all(address.startswith("/static/") for address in loaded), f"{route}: {loaded}"
            assert len(text.encode()) < 150_000, str(route)


async def test_the_cookie_is_http_only_same_site_and_secure_behind_tls(stage: Stage) -> None:
    async with Browser(stage.url) as browser:
        cookie = (await browser.get("/sign-up")).headers["set-cookie"]
        assert re.fullmatch(r"relay=[\w.-]+; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax", cookie)
    behind_tls = msgspec.structs.replace(stage.settings, relay_api_url="https://relay.example.com")
    async with serving(behind_tls) as url, Browser(url) as browser:
        answer = await browser.get("/sign-up")
        cookie = answer.headers["set-cookie"]
        assert re.fullmatch(r"__Host-relay=[\w.-]+; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure", cookie)
        assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_another_auth_secret_ends_all_sessions(stage: Stage) -> None:
    async with serving(msgspec.structs.replace(stage.settings, auth_secret="y" * 32)) as url, Browser(url) as browser:
        browser.client.cookies.set("relay", stage.ada.client.cookies["relay"])
        assert (await browser.get("/account")).status_code == 303


async def test_auth_secret_rotation_keeps_sessions(stage: Stage) -> None:
    """As in docs/security.md: every process accepts the new secret, then uses it, then drops the old one."""
    old, new = stage.settings.auth_secret, "y" * 32

    def pair(secret: str, other: str | None) -> Settings:
        return msgspec.structs.replace(stage.settings, auth_secret=secret, auth_secret_previous=other)

    cookie = stage.ada.client.cookies["relay"]
    async with (
        serving(pair(old, new)) as accepting,
        serving(pair(new, old)) as using,
        serving(pair(new, None)) as only_new,
    ):
        for step, url in (
            ("accepted", accepting),
            ("used", using),
            ("a process behind", accepting),
            ("again", using),
            ("the old one is gone", only_new),
        ):
            async with Browser(url) as browser:
                browser.client.cookies.set("relay", cookie, domain="127.0.0.1", path="/")
                page = await browser.get("/account")
                assert page.status_code == 200, step
                cookie = browser.client.cookies["relay"]
    # The first process knows the old secret only.
    async with Browser(stage.url) as browser:
        browser.client.cookies.set("relay", cookie)
        assert (await browser.get("/account")).status_code == 303


async def test_a_form_opened_before_an_auth_secret_rotation_is_accepted(stage: Stage) -> None:
    page = (await stage.ada.get("/account")).text
    token = re.search(r'name="form_token" value="([^"]+)"', page)
    assert token is not None
    changed = msgspec.structs.replace(
        stage.settings, auth_secret="y" * 32, auth_secret_previous=stage.settings.auth_secret
    )
    async with serving(changed) as url, Browser(url) as browser:
        browser.client.cookies.set("relay", stage.ada.client.cookies["relay"])
        answer = await browser.client.post("/account/name", data={"form_token": token[1], "name": "Ada B."})
        assert answer.status_code == 303, answer.text


async def test_instances_in_one_process_show_their_own_addresses(stage: Stage) -> None:
    """They share the compiled templates."""
    second = msgspec.structs.replace(stage.settings, relay_api_url="http://second.example.org")
    path = f"/projects/{stage.project}/quickstart"
    async with serving(second) as url, Browser(url) as browser:
        browser.client.cookies.set("relay", stage.ada.client.cookies["relay"])
        shown = [(await one.get(path)).text for one in (stage.ada, browser, stage.ada)]
    assert [second.relay_api_url in text for text in shown] == [False, True, False]
    assert [f"{stage.settings.relay_api_url}/v1/" in text for text in shown] == [True, False, True]


@pytest.mark.parametrize("cookie", ["", ".", "a.b", "a" * 5000, "ä.ö", "a.b.c"])
async def test_a_forged_cookie_is_not_signed_in(stage: Stage, cookie: str) -> None:
    async with loopback_client(stage.url) as client:
        answer = await client.get("/account", headers={b"cookie": f"relay={cookie}".encode()})
        assert answer.status_code == 303


Signed = Callable[[bytes], dict[str, str]]


async def test_text_written_by_others_is_escaped(changed_stage: Stage, signed: Signed) -> None:
    """Participants choose room names, identities and names. Members name projects, keys and accounts."""
    stage = changed_stage
    name = f"p_{stage.project}__{SCRIPT}"
    for number, event in enumerate(("participant_joined", "track_published")):
        body = msgspec.json.encode(
            {
                "event": event,
                "id": f"EV_script{number}",
                "createdAt": "1700000000",
                "room": {"sid": "RM_script", "name": name, "metadata": SCRIPT},
                "participant": {
                    "sid": "PA_script",
                    "identity": SCRIPT,
                    "name": SCRIPT,
                    "metadata": SCRIPT,
                    "joinedAt": "1700000000",
                    "attributes": {SCRIPT: SCRIPT},
                },
                "track": {"sid": "TR_script", "name": SCRIPT},
            }
        )
        answer = await stage.ada.client.post("/api/webhooks/livekit", content=body, headers=signed(body))
        assert answer.status_code == 200
    await stage.ada.get("/account")
    await stage.ada.submit("/account/name", name=SCRIPT)
    await stage.ada.submit(f"/projects/{stage.project}/name", name=SCRIPT)
    created = await stage.ada.submit(f"/projects/{stage.project}/keys", name=SCRIPT, type="secret", lifetime="never")
    assert created.status_code == 201
    await stage.ada.submit(f"/projects/{stage.project}/members/invite", note=SCRIPT, role="viewer")
    shown = 0
    for route in portal_routes():
        if route.method == "GET" and not route.path.endswith(("/live", ".csv")):
            text = (await stage.ada.get(stage.fill(route.path))).text
            assert SCRIPT not in text, str(route)
            shown += "&lt;script&gt;alert(1)" in text
    assert shown >= 8
    for query in (
        f"q={SCRIPT}",
        f"room={SCRIPT}",
        f"from={SCRIPT}",
        f"groupBy={SCRIPT}",
        f"done={SCRIPT}",
        f"mode={SCRIPT}",
    ):
        for page in ("", "/usage", "/keys"):
            assert SCRIPT not in (await stage.ada.get(f"/projects/{stage.project}{page}?{query}")).text


async def test_text_that_postgres_cannot_store_is_a_client_error(stage: Stage) -> None:
    async with Browser(stage.url) as nobody:
        await nobody.sign_in("oscar")
        await nobody.get("/account")
        await nobody.submit("/sign-out")
        await nobody.get("/sign-in")
        for address in ("a\0b@example.com", "a\u202eb@example.com", "a\x1bb@example.com"):
            answer = await nobody.submit("/sign-in", email=address, password=PASSWORD)
            assert (answer.status_code, "not an e-mail address" in answer.text) == (422, True)
        assert (await nobody.get("/invitations/a%00")).status_code in (404, 410)
    for path in ("/projects/%00", f"/projects/{stage.project}/keys/%00/revoke", "/instance/accounts/%00/disable"):
        assert (await stage.ada.get(path)).status_code in (404, 405), path
    await stage.ada.get(f"/projects/{stage.project}/members")
    answer = await stage.ada.submit(f"/projects/{stage.project}/members/withdraw", invitation="a\0")
    assert answer.status_code == 404


async def test_an_internal_error_shows_the_request_id_of_its_log_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("services.api.portal.account.routes.queries.sessions_of", fails)
    answer = await stage.ada.get("/account")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.text
    assert "secret of the inside" not in answer.text
    assert f"request {answer.headers['x-request-id']} failed" in caplog.text
