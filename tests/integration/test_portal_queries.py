"""Each page of the portal sends a fixed number of statements, however much it shows.

A page with one more statement for each room, key or project is quick in a test and slow for projects with many of them.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from services.api.portal.overview import live_updates as live
from services.cli.keys import create_key
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from tests.integration.conftest import serving
from tests.portal_browser import Browser

# Two of each are for access control: the session and the project. Acquiring and releasing a connection is not counted.
STATEMENTS = {
    "/projects/{project}": 8,
    "/projects/{project}/usage": 3,
    "/projects/{project}/usage?groupBy=room": 5,
    "/projects/{project}/rooms": 3,
    "/projects/{project}/sessions": 3,
    "/projects/{project}/events": 3,
    "/projects/{project}/keys": 4,
    "/projects/{project}/members": 4,
    "/projects/{project}/log": 3,
    "/projects": 3,
    "/instance": 10,
    "/instance/projects": 2,
    "/instance/accounts": 3,
}
_OF_THE_POOL = ("BEGIN", "COMMIT", "ROLLBACK", "SELECT pg_advisory_unlock_all")
_METHODS = ("fetch", "fetchrow", "fetchval", "execute", "executemany")
_SESSION = (
    "INSERT INTO session (sid, project_id, mode, room, identity, kind, started_ms, last_sign_ms, video_edges, state)"
    " SELECT 'PA_' || n, $1, 'live', 'room-' || n, 'user-' || n, 'STANDARD', $2, $2, '{}', convert_to(json_build_object("
    "'sid', 'PA_' || n, 'project_id', $1::text, 'mode', 'live', 'room', 'room-' || n, 'kind', 'STANDARD', 'joined_ms',"
    " $2::bigint)::text,"
    " 'UTF8') FROM generate_series(1, 30) AS n"
)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every statement that this process sends, in order."""
    sent: list[str] = []

    def recorded(method: Callable[..., Any]) -> Callable[..., Any]:
        async def send(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
            if not query.startswith(_OF_THE_POOL):
                sent.append(query)
            return await method(self, query, *arguments, **options)

        return send

    for name in _METHODS:
        monkeypatch.setattr(asyncpg.Connection, name, recorded(getattr(asyncpg.Connection, name)))
    return sent


async def test_pages_send_a_fixed_number_of_statements(settings: Settings, pool: Pool, statements: list[str]) -> None:
    async with serving(settings) as url, Browser(url) as ada:
        await ada.sign_up("ada")
        project = await ada.create_project("acme")
        few = await statements_per_page(ada, project, statements)
        for number in range(10):
            await ada.create_project(f"project {number}")
            await create_key(settings.database, project, "live", "secret", f"key {number}")
            await ada.invitation(project, "viewer")
        await pool.execute(_SESSION, project, int(datetime.now(UTC).timestamp() * 1000) - 60_000)
        many = await statements_per_page(ada, project, statements)
    assert many == few
    assert few == STATEMENTS


async def statements_per_page(browser: Browser, project: str, statements: list[str]) -> dict[str, int]:
    """Return the smallest number of statements of four requests per page.

    Concurrent work of the process (last use of keys, caches) only adds statements.
    """
    found: dict[str, int] = {}
    for path in STATEMENTS:
        for _ in range(4):
            statements.clear()
            answer = await browser.get(path.format(project=project))
            assert answer.status_code == 200, (path, answer.text)
            found[path] = min(len(statements), found.get(path, len(statements)))
    return found


async def test_a_live_stream_ends_with_its_session(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(live, "RECHECK_EVERY_S", 0.1)
    async with serving(settings) as url, Browser(url) as ada, Browser(url) as elsewhere:
        await ada.sign_up("ada")
        project = await ada.create_project("acme")
        await elsewhere.sign_in("ada")
        await elsewhere.get("/account")
        async with ada.client.stream("GET", f"/projects/{project}/live") as stream:
            assert stream.status_code == 200
            pieces = stream.aiter_bytes()
            assert (await anext(pieces)).startswith(b"retry:")
            # The stream stays open over many checks while nothing is revoked.
            for _ in range(5):
                await anext(pieces)
            await elsewhere.submit("/account/sign-out-everywhere")
            async for _ in pieces:
                pass  # until it ends; the client's time-out is the bound
        again = await ada.get(f"/projects/{project}/live")
        assert again.headers["location"].startswith("/sign-in")
