"""Accounts in the portal, over HTTP: signing up and in, sessions, invitations, throttling."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx
import msgspec
import pytest

from services.api.portal.passwords.attempts import subjects_of
from services.api.portal.passwords.hashing import Passwords
from services.cli.accounts import invitation_link, password_link
from services.cli.keys import create_key
from services.cli.projects import create_project, rename_project
from shared.errors import AccountNotFound
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from tests.http_clients import loopback_client
from tests.integration.conftest import every_error_is_a_listed_one, key_of, serving
from tests.portal_browser import PASSWORD, Browser
from tests.portal_site import PortalSite

NewBrowser = Callable[[], Browser]


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    """The settings of an empty instance."""
    return shared_settings


@pytest.fixture
async def new_browser(shared_api: httpx.AsyncClient) -> AsyncIterator[NewBrowser]:
    """Return a function that opens a browser of an empty instance, for tests of its first or its last administrator."""
    async with AsyncExitStack() as stack:

        def make() -> Browser:
            browser = Browser(str(shared_api.base_url))
            stack.push_async_callback(browser.client.aclose)
            return browser

        yield make


async def test_the_first_account_is_administrator_and_closes_sign_up(new_browser: NewBrowser) -> None:
    ada, eve = new_browser(), new_browser()
    assert (await ada.follow(await ada.get("/"))).headers["location"] == "/sign-up"
    assert "Create the first account" in (await ada.get("/sign-up")).text
    await ada.sign_up("ada")
    assert (await ada.get("/projects")).headers["location"] == "/projects/new"
    assert "need an invitation" in (await eve.get("/sign-up")).text
    await eve.get("/sign-in")
    refused = await eve.submit("/sign-up", name="eve", email="eve@example.com", password=PASSWORD)
    assert refused.status_code == 403
    assert (await eve.sign_in("eve")).status_code == 422


async def test_concurrent_first_sign_ups_create_one_administrator(new_browser: NewBrowser, pool: Pool) -> None:
    browsers = [new_browser() for _ in range(4)]
    for browser in browsers:
        await browser.get("/sign-up")
    answers = await asyncio.gather(
        *(
            browser.submit("/sign-up", name="a", email=f"a{number}@example.com", password=PASSWORD)
            for number, browser in enumerate(browsers)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [303, 403, 403, 403]
    assert await pool.fetchval("SELECT count(*) FROM account WHERE is_admin") == 1
    assert await pool.fetchval("SELECT count(*) FROM account") == 1


async def test_open_sign_up_creates_no_second_administrator(settings: Settings, pool: Pool) -> None:
    async with (
        serving(msgspec.structs.replace(settings, sign_up="open")) as url,
        Browser(url) as ada,
        Browser(url) as bob,
    ):
        await ada.sign_up("ada")
        await bob.sign_up("bob")
    assert await pool.fetchval("SELECT array_agg(email) FROM account WHERE is_admin") == ["ada@example.com"]


async def test_passwords_and_cookies_are_stored_only_as_hashes(settings: Settings, pool: Pool) -> None:
    """The hashes are the real ones. The other tests use quick ones."""
    async with serving(settings, passwords=Passwords()) as url, Browser(url) as ada, Browser(url) as again:
        await ada.sign_up("ada")
        row = await pool.fetchrow("SELECT a.password_hash, s.digest FROM account a, portal_session s")
        assert row is not None
        assert row["password_hash"].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        browser_id = ada.client.cookies["relay"].split(".")[0]
        assert browser_id.encode() not in row["digest"]
        assert len(row["digest"]) == 32
        assert (await again.sign_in("ada", "another password")).status_code == 422
        assert (await again.sign_in("ada")).status_code == 303


async def test_signing_in_issues_a_new_cookie(site: PortalSite) -> None:
    """A cookie that an attacker planted beforehand is not signed in."""
    ada, planted = site.browser(), site.browser()
    await ada.sign_up("ada")
    await ada.submit("/sign-out")
    await ada.get("/sign-in")
    before = ada.client.cookies["relay"]
    planted.client.cookies.set("relay", before)
    assert (await ada.sign_in("ada")).status_code == 303
    assert ada.client.cookies["relay"] != before
    assert (await ada.get("/account")).status_code == 200
    assert (await planted.get("/account")).status_code == 303


async def test_signing_out_ends_the_session_on_the_server(site: PortalSite) -> None:
    ada, thief = site.browser(), site.browser()
    await ada.sign_up("ada")
    thief.client.cookies.set("relay", ada.client.cookies["relay"])
    assert (await thief.get("/account")).status_code == 200
    await ada.submit("/sign-out")
    assert (await thief.get("/account")).status_code == 303


async def test_signing_out_everywhere_keeps_this_browser(site: PortalSite) -> None:
    here, there = site.browser(), site.browser()
    await here.sign_up("ada")
    await there.sign_in("ada")
    assert (await there.get("/account")).status_code == 200
    await here.submit("/account/sign-out-everywhere")
    assert (await here.get("/account")).status_code == 200
    assert (await there.get("/account")).status_code == 303


async def test_changing_the_password_ends_other_sessions(site: PortalSite) -> None:
    here, there = site.browser(), site.browser()
    await here.sign_up("ada")
    await there.sign_in("ada")
    await here.get("/account")
    wrong = await here.submit("/account/password", present="not it at all", password="another long one")
    assert wrong.status_code == 422
    short = await here.submit("/account/password", present=PASSWORD, password="short")
    assert "at least 10 characters" in short.text
    assert (await there.get("/account")).status_code == 200
    assert (await here.submit("/account/password", present=PASSWORD, password="another long one")).status_code == 303
    assert (await here.get("/account")).status_code == 200
    assert (await there.get("/account")).status_code == 303
    assert (await there.sign_in("ada")).status_code == 422
    assert (await there.sign_in("ada", "another long one")).status_code == 303


async def test_password_guessing_is_throttled(site: PortalSite) -> None:
    ada, eve = site.browser(), site.browser()
    await ada.sign_up("ada")
    await eve.get("/sign-in")
    statuses = [(await eve.sign_in("ada", f"guess number {number}")).status_code for number in range(12)]
    assert statuses == [422] * 10 + [429] * 2
    assert (await eve.sign_in("ada")).status_code == 429  # the right password is refused too


def test_all_spellings_of_an_address_share_one_count() -> None:
    counted = subjects_of("ivan.k@example.com", "192.0.2.1")
    for spelled in (" IVAN.K@Example.com ", "\u0130van.k@example.com", "ivan.\u212a@example.com"):
        assert subjects_of(spelled, "192.0.2.1") == counted


async def test_frequent_sign_ins_are_not_throttled(site: PortalSite) -> None:
    ada = site.browser()
    await ada.sign_up("ada")
    for _ in range(15):
        assert (await ada.sign_in("ada")).status_code == 303
        await ada.get("/account")
        await ada.submit("/sign-out")


async def test_an_invitation_works_once(site: PortalSite) -> None:
    ada, bob, eve = site.browser(), site.browser(), site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    link = await ada.invitation(project, "viewer")
    assert "Join acme" in (await bob.get(link)).text
    assert (await bob.sign_up("bob", link)).headers["location"] == f"/projects/{project}?done=joined"
    assert (await bob.get(f"/projects/{project}/members")).status_code == 200
    assert (await eve.get(link)).status_code == 410
    await eve.get("/sign-in")
    assert (await eve.submit(link, name="eve", email=site.email("eve"), password=PASSWORD)).status_code == 410


async def test_concurrent_uses_of_an_invitation_create_one_account(site: PortalSite) -> None:
    ada, bob, eve = site.browser(), site.browser(), site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    link = await ada.invitation(project, "viewer")
    await bob.get(link)
    await eve.get(link)
    answers = await asyncio.gather(
        bob.submit(link, name="bob", email=site.email("bob"), password=PASSWORD),
        eve.submit(link, name="eve", email=site.email("eve"), password=PASSWORD),
    )
    assert sorted(answer.status_code for answer in answers) == [303, 410]
    emails = [site.email(name) for name in ("ada", "bob", "eve")]
    assert await site.pool.fetchval("SELECT count(*) FROM account WHERE email = ANY($1)", emails) == 2
    assert await site.pool.fetchval("SELECT count(*) FROM membership WHERE project_id = $1", project) == 2


async def test_a_withdrawn_or_expired_invitation_does_not_work(site: PortalSite) -> None:
    ada, eve = site.browser(), site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    link = await ada.invitation(project, "viewer")
    invitation = await site.pool.fetchval("SELECT id FROM invitation WHERE project_id = $1", project)
    assert (await ada.submit(f"/projects/{project}/members/withdraw", invitation=invitation)).status_code == 303
    assert (await eve.get(link)).status_code == 410
    link = await ada.invitation(project, "viewer")
    await site.pool.execute("UPDATE invitation SET expires_at = now() - interval '1 s' WHERE project_id = $1", project)
    assert (await eve.get(link)).status_code == 410


async def test_the_last_owner_cannot_be_demoted_or_removed(site: PortalSite) -> None:
    ada = site.browser()
    await ada.sign_up("ada")
    await site.make_administrator("ada")
    project = await ada.create_project("acme")
    account = await site.account("ada")
    members = f"/projects/{project}/members/{account}"
    await ada.get(f"/projects/{project}/members")
    assert (await ada.submit(f"{members}/role", role="viewer")).status_code == 422
    assert (await ada.submit(f"{members}/remove")).status_code == 422
    assert await site.pool.fetchval("SELECT role FROM membership WHERE project_id = $1", project) == "owner"


async def test_keys_of_an_archived_project_are_refused_until_it_is_restored(site: PortalSite) -> None:
    ada = site.browser()
    await ada.sign_up("ada")
    await ada.get("/projects/new")
    created = await ada.submit("/projects/new", name="acme")
    key = re.search(r"sk_live_[0-9A-Za-z]+", created.text)
    project = re.search(r"/projects/([a-z0-9]+)/", created.text)
    assert key is not None
    assert project is not None

    async def mint() -> int:
        headers = {"authorization": f"Bearer {key[0]}"}
        return (await ada.client.post("/v1/tokens", json={"room": "a", "identity": "b"}, headers=headers)).status_code

    async def becomes(status: int) -> None:
        async with asyncio.timeout(20):
            while await mint() != status:  # noqa: ASYNC110  # what changes is in the server
                await asyncio.sleep(0.02)

    await becomes(200)
    await ada.get(f"/projects/{project[1]}/archive")
    assert (await ada.submit(f"/projects/{project[1]}/archive", name="something else")).status_code == 422
    assert (await ada.submit(f"/projects/{project[1]}/archive", name="acme")).status_code == 303
    await becomes(401)
    await ada.submit(f"/projects/{project[1]}/restore")
    await becomes(200)


async def test_links_from_the_command_line_work(settings: Settings, pool: Pool) -> None:
    """For an instance without open sign-up, and for an administrator who forgot the password."""
    closed = msgspec.structs.replace(settings, sign_up="invite")
    async with serving(closed) as url, Browser(url) as ada, Browser(url) as elsewhere:
        assert "Invitation needed" in (await ada.follow(await ada.get("/sign-in"))).text
        path = (await invitation_link(closed, "the first")).removeprefix(closed.relay_api_url)
        await ada.sign_up("ada", path)
        assert await pool.fetchval("SELECT is_admin FROM account")
        path = (await password_link(closed, "ADA@example.com")).removeprefix(closed.relay_api_url)
        await elsewhere.get(path)
        assert (await elsewhere.submit(path, password="short")).status_code == 422
        assert (await elsewhere.submit(path, password="a new and long one")).status_code == 303
        assert (await ada.get("/account")).status_code == 303
        assert (await elsewhere.submit(path, password="a third and long one")).status_code == 410
        assert (await elsewhere.sign_in("ada", "a new and long one")).status_code == 303
    with pytest.raises(AccountNotFound):
        await password_link(closed, "nobody@example.com")


async def test_accounts_can_be_disabled_except_the_last_administrator(new_browser: NewBrowser, pool: Pool) -> None:
    ada, bob = new_browser(), new_browser()
    await ada.sign_up("ada")
    await bob.sign_up("bob", await ada.invitation(await ada.create_project("acme"), "viewer"))
    of = {row["name"]: row["id"] for row in await pool.fetch("SELECT name, id FROM account")}
    await ada.get("/instance/accounts")
    assert (await ada.submit(f"/instance/accounts/{of['ada']}/disable")).status_code == 422
    assert (await ada.submit(f"/instance/accounts/{of['ada']}/admin", admin="no")).status_code == 422
    assert (await ada.submit(f"/instance/accounts/{of['bob']}/disable")).status_code == 303
    assert (await bob.get("/account")).status_code == 303
    refused = await bob.sign_in("bob")
    assert refused.status_code == 422
    assert "disabled" in refused.text
    await ada.get("/instance/accounts")
    assert (await ada.submit(f"/instance/accounts/{of['bob']}/enable")).status_code == 303
    assert (await bob.sign_in("bob")).status_code == 303


async def test_portal_actions_are_in_the_audit_log(site: PortalSite) -> None:
    ada = site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    await ada.get(f"/projects/{project}/keys")
    await ada.submit(f"/projects/{project}/keys", name="backend", type="secret", lifetime="30d")
    await ada.submit(f"/projects/{project}/name", name="Acme Inc")
    text = (await ada.get(f"/projects/{project}/log")).text
    for words in ("Project created", "Key created", "backend", "Project renamed", "was acme", site.email("ada")):
        assert words in text
    assert "sk_live_" in text
    assert not re.search(r"sk_live_[0-9A-Za-z]{10}", text)


@pytest.mark.parametrize("rank", ["", "admin", "viewer"])
async def test_a_removed_member_cannot_return_with_their_own_links(site: PortalSite, rank: str) -> None:
    ada, bob = site.browser(), site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    await bob.sign_up("bob", await ada.invitation(project, "owner"))
    links = {role: await bob.invitation(project, role) for role in ("owner", "admin", "viewer")}
    members = f"/projects/{project}/members"
    of_bob = members + "/" + await site.account("bob")
    await ada.get(members)
    answer = await (ada.submit(f"{of_bob}/role", role=rank) if rank else ada.submit(f"{of_bob}/remove"))
    assert answer.status_code == 303
    still = {role for role, link in links.items() if (await bob.get(link)).status_code == 200}
    assert still == ({"admin", "viewer"} if rank == "admin" else set())


async def test_links_end_with_the_rights_of_the_administrator_who_made_them(site: PortalSite) -> None:
    """Otherwise a former administrator could keep a link to another account."""
    ada, bob = site.browser(), site.browser()
    await ada.sign_up("ada")
    await site.make_administrator("ada")
    await bob.sign_up("bob", await ada.invitation(await ada.create_project("acme"), "viewer"))
    of = {name: await site.account(name) for name in ("ada", "bob")}

    async def links() -> list[str]:
        await ada.get("/instance/accounts")
        await ada.submit(f"/instance/accounts/{of['bob']}/enable")
        await ada.submit(f"/instance/accounts/{of['bob']}/admin", admin="yes")
        await bob.sign_in("bob")
        await bob.get("/instance/accounts")
        made = await bob.submit(f"/instance/accounts/{of['ada']}/password")
        invited = await bob.submit("/instance/accounts/invite", note="a friend")
        return [re.findall(r"/invitations/[A-Za-z0-9_-]+", answer.text)[0] for answer in (made, invited)]

    for way, fields in (("admin", {"admin": "no"}), ("disable", {})):
        paths = await links()
        assert [(await bob.get(path)).status_code for path in paths] == [200, 200]
        assert (await ada.submit(f"/instance/accounts/{of['bob']}/{way}", **fields)).status_code == 303
        assert [(await bob.get(path)).status_code for path in paths] == [410, 410], way


async def test_a_new_password_ends_all_open_password_links(site: PortalSite) -> None:
    ada, thief = site.browser(), site.browser()
    await ada.sign_up("ada")

    async def link() -> str:
        return (await password_link(site.settings, site.email("ada"))).removeprefix(site.settings.relay_api_url)

    stolen = await link()
    await ada.get("/account")
    assert (await ada.submit("/account/password", present=PASSWORD, password="a new and long one")).status_code == 303
    assert (await thief.get(stolen)).status_code == 410
    stolen, used = await link(), await link()
    await ada.get(used)
    assert (await ada.submit(used, password="a third and long one")).status_code == 303
    assert (await thief.get(stolen)).status_code == 410


async def test_no_token_for_an_archived_project(site: PortalSite) -> None:
    ada = site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    await ada.get(f"/projects/{project}/archive")
    await ada.submit(f"/projects/{project}/archive", name="acme")
    await ada.get(f"/projects/{project}/quickstart")
    refused = await ada.submit(f"/projects/{project}/quickstart/token")
    assert refused.status_code == 400
    assert "archived" in refused.text
    assert re.search(r"eyJ[\w-]+\.eyJ", refused.text) is None  # the first three letters may be part of any random token


async def test_concurrent_disabling_leaves_one_administrator(new_browser: NewBrowser, pool: Pool) -> None:
    ada, bob = new_browser(), new_browser()
    await ada.sign_up("ada")
    await bob.sign_up("bob", await ada.invitation(await ada.create_project("acme"), "viewer"))
    of = {row["name"]: row["id"] for row in await pool.fetch("SELECT name, id FROM account")}
    for way in ("disable", "admin"):
        await pool.execute("UPDATE account SET is_admin = true, disabled_at = NULL")
        for browser, name in ((ada, "ada"), (bob, "bob")):
            await browser.sign_in(name)
            await browser.get("/instance/accounts")
        await asyncio.gather(
            ada.submit(f"/instance/accounts/{of['bob']}/{way}", admin="no"),
            bob.submit(f"/instance/accounts/{of['ada']}/{way}", admin="no"),
        )
        assert await pool.fetchval("SELECT count(*) FROM account WHERE is_admin AND disabled_at IS NULL") == 1, way


async def test_concurrent_removals_leave_one_owner(site: PortalSite) -> None:
    ada, bob = site.browser(), site.browser()
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    await bob.sign_up("bob", await ada.invitation(project, "owner"))
    of = {name: await site.account(name) for name in ("ada", "bob")}
    members = f"/projects/{project}/members"
    for browser in (ada, bob):
        await browser.get(members)
    await asyncio.gather(ada.submit(f"{members}/{of['bob']}/remove"), bob.submit(f"{members}/{of['ada']}/remove"))
    owners = "SELECT count(*) FROM membership WHERE project_id = $1 AND role = 'owner'"
    assert await site.pool.fetchval(owners, project) == 1


async def test_command_line_and_api_actions_are_in_the_audit_log(site: PortalSite) -> None:
    database = site.settings.database
    project = await create_project(database, "acme")
    made = await create_key(database, project.project_id, "live", "secret", "server")
    await rename_project(database, project.project_id, "renamed")
    async with loopback_client(site.url, event_hooks={"response": [every_error_is_a_listed_one]}) as api:
        new = (await api.post("/v1/keys", json={"name": "worker"}, headers=key_of(project))).json()
        await api.post(f"/v1/keys/{new['keyId']}/rotate", json={}, headers=key_of(project))
        await api.delete(f"/v1/keys/{made.key_id}", headers=key_of(project))
    holder = await site.pool.fetchval(
        "SELECT id FROM api_key WHERE project_id = $1 AND name = 'default' AND mode = 'live' AND type = 'secret'",
        project.project_id,
    )
    rows = await site.pool.fetch(
        "SELECT actor, action, target FROM audit_log WHERE project_id = $1 ORDER BY id", project.project_id
    )
    by_key = f"API key {holder}"
    assert [tuple(row) for row in rows] == [
        ("command line", "project_created", "acme"),
        ("command line", "key_created", "server"),
        ("command line", "project_renamed", "renamed"),
        (by_key, "key_created", "worker"),
        (by_key, "key_rotated", "worker"),
        (by_key, "key_revoked", "server"),
    ]


async def test_the_mode_switch_links_to_the_same_page_or_its_list(site: PortalSite) -> None:
    ada = site.browser()
    await ada.sign_up("ada")
    base = f"/projects/{await ada.create_project('acme')}"
    for page, other in (
        ("", "?mode=test"),
        ("/usage?period=7d&groupBy=room&cursor=x", "/usage?period=7d&amp;groupBy=room&amp;mode=test"),
        ("/sessions?room=lobby", "/sessions?mode=test"),
        ("/room?name=lobby", "/rooms?mode=test"),
        ("/room/end?name=lobby", "/rooms?mode=test"),
        ("/archive", "/archive?mode=test"),
    ):
        assert f'<a href="{base}{other}"' in (await ada.get(base + page)).text, page
