"""Concurrent creates up to a maximum, and requests that fail after they took a connection."""

import asyncio
from collections import Counter

import pytest

from services.api.app import POOL_SIZE
from shared.accounts import service as accounts
from shared.infra.postgres.pool import Pool, in_transaction
from shared.infra.settings import Settings
from shared.keys import service as keys
from tests.integration.conftest import serving
from tests.portal_browser import Browser

AT_ONCE = 12
COUNT = {
    "keys": "SELECT count(*) FROM api_key WHERE mode = 'live' AND revoked_at IS NULL",
    "projects": "SELECT count(*) FROM project",
    "invitations": "SELECT count(*) FROM invitation WHERE purpose = 'project'",
    "sign-up links": "SELECT count(*) FROM invitation WHERE purpose = 'sign_up'",
}


@pytest.mark.parametrize("what", COUNT)
async def test_concurrent_creates_do_not_exceed_the_maximum(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for module, name in (
        (keys, "MAX_USABLE_KEYS"),
        (accounts, "MAX_OPEN_INVITATIONS"),
        (accounts, "MAX_OWNED_PROJECTS"),
    ):
        monkeypatch.setattr(module, name, 5)
    async with serving(settings) as url, Browser(url) as ada:
        await ada.sign_up("ada")
        project = await ada.create_project("acme")
        before = await pool.fetchval(COUNT[what])
        path, fields = {
            "keys": (f"/projects/{project}/keys", {"name": "k", "type": "secret", "lifetime": "never"}),
            "projects": ("/projects/new", {"name": "another"}),
            "invitations": (f"/projects/{project}/members/invite", {"role": "viewer", "note": "somebody"}),
            "sign-up links": ("/instance/accounts/invite", {"note": "somebody"}),
        }[what]
        answers = await asyncio.gather(*(ada.submit(path, **fields) for _ in range(AT_ONCE)))
        assert await pool.fetchval(COUNT[what]) == 5
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses == {201: 5 - before, 422: AT_ONCE - 5 + before}
        refused = next(answer for answer in answers if answer.status_code == 422)
        assert ("most" in refused.text) or ("no more" in refused.text)
        # A refused create leaves no rows.
        assert await pool.fetchval("SELECT count(*) FROM project p WHERE NOT EXISTS (SELECT FROM membership m"
                                   " WHERE m.project_id = p.id)") == 0  # fmt: skip


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
async def test_a_failed_request_releases_its_connection(settings: Settings, path: str) -> None:
    async with serving(settings) as url, Browser(url) as ada:
        await ada.sign_up("ada")
        address = path.format(project=await ada.create_project("acme"))
        for _ in range(POOL_SIZE + 2):
            assert (await ada.get(address)).status_code in (404, 422)
            if "?" not in path and "sessions" not in path:
                assert (await ada.submit(address)).status_code in (404, 422)


async def test_a_refused_form_writes_nothing(settings: Settings, pool: Pool) -> None:
    """The page with the error is rendered in the transaction of the form, which then commits."""
    async with serving(settings) as url, Browser(url) as ada:
        await ada.sign_up("ada")
        project = await ada.create_project("acme")
        before = await pool.fetchval("SELECT count(*) FROM audit_log")
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
        assert await pool.fetchval("SELECT count(*) FROM audit_log") == before


@pytest.mark.parametrize("page", ["", "/usage", "/sessions", "/events", "/keys", "/members", "/log", "/rooms"])
async def test_a_page_reads_in_one_read_only_snapshot(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    opened: list[bool] = []
    real = in_transaction

    def counted(conn: object, *, snapshot: bool = False) -> object:
        opened.append(snapshot)
        return real(conn, snapshot=snapshot)  # type: ignore[arg-type]  # a connection

    async with serving(settings) as url, Browser(url) as ada:
        await ada.sign_up("ada")
        project = await ada.create_project("acme")
        monkeypatch.setattr("services.api.portal.transactions.in_transaction", counted)
        assert (await ada.get(f"/projects/{project}{page}")).status_code == 200
        assert opened == [True]
