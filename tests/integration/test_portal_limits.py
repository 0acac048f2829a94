"""Concurrent creates up to a maximum, and requests that fail after they took a connection."""

import asyncio
from collections import Counter

import pytest

from services.api.app import POOL_SIZE
from shared.accounts import service as accounts
from shared.infra.postgres.pool import in_transaction
from shared.keys import service as keys
from tests.portal_browser import Browser
from tests.portal_site import PortalSite

AT_ONCE = 12
COUNT = {
    "keys": "SELECT count(*) FROM api_key WHERE project_id = $1 AND mode = 'live' AND revoked_at IS NULL",
    "projects": "SELECT count(*) FROM membership WHERE account_id = (SELECT account_id FROM membership WHERE project_id = $1)",
    "invitations": "SELECT count(*) FROM invitation WHERE project_id = $1 AND purpose = 'project'",
    # No other test of this module creates these. $1 is the project for the others.
    "sign-up links": "SELECT count(*) FROM invitation WHERE $1 <> '' AND purpose = 'sign_up'",
}


@pytest.fixture
async def ada(site: PortalSite) -> Browser:
    """A signed-in administrator."""
    browser = site.browser()
    await browser.sign_up("ada")
    await site.make_administrator("ada")
    return browser


@pytest.mark.parametrize("what", COUNT)
async def test_concurrent_creates_do_not_exceed_the_maximum(
    site: PortalSite, ada: Browser, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for module, name in (
        (keys, "MAX_USABLE_KEYS"),
        (accounts, "MAX_OPEN_INVITATIONS"),
        (accounts, "MAX_OWNED_PROJECTS"),
    ):
        monkeypatch.setattr(module, name, 5)
    project = await ada.create_project("acme")
    before = await site.pool.fetchval(COUNT[what], project)
    path, fields = {
        "keys": (f"/projects/{project}/keys", {"name": "k", "type": "secret", "lifetime": "never"}),
        "projects": ("/projects/new", {"name": "another"}),
        "invitations": (f"/projects/{project}/members/invite", {"role": "viewer", "note": "somebody"}),
        "sign-up links": ("/instance/accounts/invite", {"note": "somebody"}),
    }[what]
    answers = await asyncio.gather(*(ada.submit(path, **fields) for _ in range(AT_ONCE)))
    assert await site.pool.fetchval(COUNT[what], project) == 5
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {201: 5 - before, 422: AT_ONCE - 5 + before}
    refused = next(answer for answer in answers if answer.status_code == 422)
    assert ("most" in refused.text) or ("no more" in refused.text)
    # A refused create leaves no rows.
    without_member = (
        "SELECT count(*) FROM project p WHERE NOT EXISTS (SELECT FROM membership m WHERE m.project_id = p.id)"
    )
    assert await site.pool.fetchval(without_member) == 0


@pytest.mark.parametrize(
    "path",
    [
        "/projects/{project}/keys/unknown/rotate",
        "/projects/{project}/keys/unknown/revoke",
        "/projects/{project}/members/unknown/remove",
        "/projects/{project}/sessions/PA_unknown",
        "/projects/{project}/event?id=unknown&at=2026-01-01T00:00:00Z",
        "/projects/{project}/usage?from=nonsense",
    ],
)
async def test_a_failed_request_releases_its_connection(ada: Browser, path: str) -> None:
    address = path.format(project=await ada.create_project("acme"))
    for _ in range(POOL_SIZE + 2):
        assert (await ada.get(address)).status_code in (404, 422)
        if "?" not in path and "sessions" not in path:
            assert (await ada.submit(address)).status_code in (404, 422)


async def test_a_refused_form_writes_nothing(site: PortalSite, ada: Browser) -> None:
    """The page with the error is rendered in the transaction of the form, which then commits."""
    project = await ada.create_project("acme")
    before = await site.pool.fetchval("SELECT count(*) FROM audit_log")
    forms = {
        "/account/name": {"name": ""},
        f"/projects/{project}/name": {"name": "\u200b"},
        f"/projects/{project}/archive": {"name": "another"},
        f"/projects/{project}/keys": {"name": "", "type": "secret", "lifetime": "never"},
        f"/projects/{project}/members/invite": {"role": "king", "note": "x"},
        "/projects/new": {"name": ""},
    }
    for path, fields in forms.items():
        assert (await ada.submit(path, **fields)).status_code == 422, path
    assert await site.pool.fetchval("SELECT count(*) FROM audit_log") == before


@pytest.mark.parametrize("page", ["", "/usage", "/sessions", "/events", "/keys", "/members", "/log", "/rooms"])
async def test_a_page_reads_in_one_read_only_snapshot(ada: Browser, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    opened: list[bool] = []
    real = in_transaction

    def counted(conn: object, *, snapshot: bool = False) -> object:
        opened.append(snapshot)
        return real(conn, snapshot=snapshot)  # type: ignore[arg-type]  # a connection

    project = await ada.create_project("acme")
    monkeypatch.setattr("services.api.portal.transactions.in_transaction", counted)
    assert (await ada.get(f"/projects/{project}{page}")).status_code == 200
    assert opened == [True]
