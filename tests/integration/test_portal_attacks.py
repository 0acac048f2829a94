"""Attacks on the portal: lock-out, races, floods, wrong hosts and nested events."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest

from services.api.portal.overview.live_updates import STREAMS_PER_ACCOUNT
from services.api.portal.passwords.hashing import Passwords, TooBusy
from services.cli.accounts import password_link
from tests.http_clients import loopback_client
from tests.integration.conftest import serving
from tests.portal_browser import PASSWORD, Browser
from tests.portal_site import PortalSite, RunningPortal


@pytest.fixture(scope="module")
async def url_of_second_host(running_portal: RunningPortal) -> AsyncIterator[str]:
    """The URL of a portal that is served for second.example.org too."""
    own = msgspec.structs.replace(running_portal.settings, portal_hosts=("second.example.org",))
    async with serving(own) as url:
        yield url


async def guess(browser: Browser, times: int) -> list[int]:
    await browser.get("/sign-in")
    form = {"email": browser.email("ada"), "password": "not the right one"}
    return [(await browser.submit("/sign-in", **form)).status_code for _ in range(times)]


@pytest.mark.parametrize("attempts", [11, 120])
async def test_one_address_does_not_lock_out_others(site: PortalSite, attempts: int) -> None:
    await site.browser(1).sign_up("ada")
    assert await guess(site.browser(9), attempts) == [422] * 10 + [429] * (attempts - 10)
    assert (await site.browser(7).sign_in("ada")).status_code == 303


async def test_many_addresses_do_not_lock_out_known_browsers_or_reset_links(site: PortalSite) -> None:
    known = site.browser(1)
    await known.sign_up("ada")
    await known.submit("/sign-out")
    known.client.headers["x-forwarded-for"] = site.address(2)  # the browser now has another address
    for number in range(10):
        assert await guess(site.browser(100 + number), 10) == [422] * 10
    assert (await site.browser(7).sign_in("ada")).status_code == 429
    assert (await known.sign_in("ada")).status_code == 303
    link = (await password_link(site.settings, site.email("ada"))).removeprefix(site.settings.relay_api_url)
    elsewhere = site.browser(8)
    await elsewhere.get(link)
    assert (await elsewhere.submit(link, password="another long one")).status_code == 303
    assert (await site.browser(9).sign_in("ada", "another long one")).status_code == 303


async def test_guesses_of_a_known_browser_are_limited(site: PortalSite) -> None:
    known = site.browser(1)
    await known.sign_up("ada")
    await known.submit("/sign-out")
    assert await guess(known, 12) == [422] * 10 + [429] * 2


@pytest.mark.parametrize("clients", [1, 4])
async def test_no_session_of_the_old_password_survives_a_change(
    site: PortalSite, monkeypatch: pytest.MonkeyPatch, clients: int
) -> None:
    """The clients have passed the check of the old password and have no session yet when it is changed."""
    owner, others = site.browser(1), [site.browser(10 + number) for number in range(clients)]
    await owner.sign_up("ada")
    for other in others:
        await other.get("/sign-in")
    held, changed, real = Counter[str](), asyncio.Event(), Passwords.matches

    async def matches(self: Passwords, password_hash: str | None, password: str, unknown: str | None = None) -> bool:
        right = await real(self, password_hash, password, unknown)
        if right and unknown is not None:  # not the check of the account page
            held["checked"] += 1
            await changed.wait()
        return right

    monkeypatch.setattr(Passwords, "matches", matches)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        form = {"email": site.email("ada"), "password": PASSWORD}
        signing_in = [group.create_task(other.submit("/sign-in", **form)) for other in others]
        while held["checked"] < clients:  # noqa: ASYNC110  # the bound is the time-out above
            await asyncio.sleep(0.02)
        answer = await owner.submit("/account/password", present=PASSWORD, password="another long one")
        changed.set()
    assert answer.status_code == 303
    assert [task.result().status_code for task in signing_in] == [422] * clients
    sessions = "SELECT count(*) FROM portal_session WHERE account_id = $1"
    assert await site.pool.fetchval(sessions, await site.account("ada")) == 1


async def test_concurrent_uses_of_reset_links_set_one_password(site: PortalSite) -> None:
    await site.browser(1).sign_up("ada")
    links = [await password_link(site.settings, site.email("ada")) for _ in range(4)]
    paths = [link.removeprefix(site.settings.relay_api_url) for link in links] * 2
    browsers = [site.browser(number) for number in range(2, 10)]
    for browser, path in zip(browsers, paths, strict=True):
        await browser.get(path)
    answers = await asyncio.gather(
        *(browser.submit(path, password="another long one") for browser, path in zip(browsers, paths, strict=True))
    )
    assert sorted(answer.status_code for answer in answers) == [303] + [410] * 7


@pytest.mark.parametrize("right", ["role", "membership", "account"])
async def test_rights_revoked_during_a_request_are_not_used(
    site: PortalSite, monkeypatch: pytest.MonkeyPatch, right: str
) -> None:
    """The right is revoked after the request has passed its first checks."""
    from shared.accounts.queries import accounts as queries

    ada, bob = site.browser(1), site.browser(2)
    await ada.sign_up("ada")
    project = await ada.create_project("acme")
    await bob.sign_up("bob", await ada.invitation(project, "admin"))
    await bob.get(f"/projects/{project}/members")
    before = await site.pool.fetchval("SELECT count(*) FROM invitation")
    real = queries.lock_rights
    taken = {
        "role": "UPDATE membership SET role = 'viewer' WHERE account_id = $1",
        "membership": "DELETE FROM membership WHERE account_id = $1",
        "account": "UPDATE account SET disabled_at = now() WHERE id = $1",
    }[right]
    bobs = await site.account("bob")

    async def lock_rights(conn: object, *, exclusive: bool) -> None:
        await site.pool.execute(taken, bobs)
        await real(conn, exclusive=exclusive)  # type: ignore[arg-type]  # a connection

    monkeypatch.setattr(queries, "lock_rights", lock_rights)
    answer = await bob.submit(f"/projects/{project}/members/invite", role="viewer", note="a friend")
    assert answer.status_code == 403
    assert await site.pool.fetchval("SELECT count(*) FROM invitation") == before


@pytest.mark.parametrize("at_once", [STREAMS_PER_ACCOUNT, STREAMS_PER_ACCOUNT + 1, 60])
async def test_concurrent_streams_are_limited(site: PortalSite, at_once: int) -> None:
    ada = site.browser(1)
    await ada.sign_up("ada")
    path = f"/projects/{await ada.create_project('acme')}/live"
    statuses: list[int] = []
    done = asyncio.Event()

    async def watch() -> None:
        async with ada.client.stream("GET", path) as answer:
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                await done.wait()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(watch())
        while len(statuses) < at_once:  # noqa: ASYNC110  # the bound is the time-out above
            await asyncio.sleep(0.02)
        done.set()
    assert statuses.count(200) == min(at_once, STREAMS_PER_ACCOUNT)
    assert statuses.count(429) == at_once - statuses.count(200)
    # Ended streams no longer count.
    async with asyncio.timeout(60):
        while True:
            async with ada.client.stream("GET", path) as answer:
                if answer.status_code == 200:
                    break


@pytest.mark.parametrize("path", ["/", "/sign-in", "/sign-up", "/projects", "/invitations/x"])
async def test_pages_are_served_only_for_their_own_hosts(url_of_second_host: str, path: str) -> None:
    async with loopback_client(url_of_second_host) as client:
        for host in ("rebound.example.com", "127.0.0.1.example.com:3000"):
            answer = await client.get(path, headers={"host": host})
            assert answer.status_code == 421
            assert "set-cookie" not in answer.headers
            assert (await client.post(path, headers={"host": host})).status_code in (405, 421)
        for host in ("second.example.org", "localhost:3000", "api:3000", "10.0.0.7"):
            assert (await client.get(path, headers={"host": host})).status_code != 421


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/usage", "/api/webhooks/livekit", "/docs"])
async def test_all_other_paths_are_served_for_any_host(site: PortalSite, path: str) -> None:
    async with loopback_client(site.url) as client:
        answers = [await client.get(path, headers={"host": host}) for host in ("127.0.0.1", "inner.example.com")]
        assert answers[0].status_code == answers[1].status_code != 421


async def test_a_flood_of_unknown_clients_leaves_a_thread_for_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords()
    right = await passwords.hash("correct horse battery")
    flood = [asyncio.create_task(passwords.matches(right, "wrong", f"10.0.{number}.1")) for number in range(200)]
    await asyncio.sleep(0)
    assert await passwords.matches(right, "correct horse battery")
    waiting = [task for task in flood if not task.done()]
    assert len(waiting) > 16  # the known client did not wait for them
    ended = await asyncio.gather(*flood, return_exceptions=True)
    assert Counter(type(one) for one in ended) == {bool: 32, TooBusy: 168}


@pytest.mark.parametrize("at_once", [5, 40])
async def test_one_address_does_not_fill_the_queue(at_once: int) -> None:
    passwords = Passwords()
    right = await passwords.hash("correct horse battery")
    flood = [asyncio.create_task(passwords.matches(right, "wrong", "10.0.0.1")) for _ in range(at_once)]
    await asyncio.sleep(0)
    assert await passwords.matches(right, "correct horse battery", "10.0.0.2")
    ended = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(one, TooBusy) for one in ended) == at_once - 4


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"[" * 900 + b"]" * 900])
async def test_a_nested_event_can_be_seen_and_dismissed(site: PortalSite, body: bytes) -> None:
    ada = site.browser(1)
    await ada.sign_up("ada")
    await site.make_administrator("ada")
    number = await site.pool.fetchval(
        "INSERT INTO set_aside_event (body_sha256, received_at, reason, detail, body)"
        " VALUES (sha256($1), now(), 'undecodable', '', $1) RETURNING id",
        body,
    )
    page = await ada.get("/instance/set-aside")
    assert page.status_code == 200
    assert len(page.text) < 100_000
    assert (await ada.submit(f"/instance/set-aside/{number}/dismiss")).status_code == 303
    assert await site.pool.fetchval("SELECT count(*) FROM set_aside_event") == 0
