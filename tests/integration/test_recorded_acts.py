"""Ending a room and removing a participant are in the audit log before LiveKit acts.

Afterwards the entry holds the outcome.
"""

import asyncio
from functools import partial

import httpx
import msgspec
import pytest

from services.api.http import transaction
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool, borrowed
from shared.infra.settings import Settings
from shared.ledger.erasure import erase_identity
from shared.models.projects import CreatedProject
from tests.fake_livekit import FakeLiveKit, twirp_failure
from tests.integration.conftest import key_of

ACTS = (
    ("/v1/rooms/lobby", ("room_ending", "room_ended", "room_end_failed"), "lobby", "live mode"),
    (
        "/v1/rooms/lobby/participants/ada",
        ("participant_removing", "participant_removed", "participant_removal_failed"),
        "ada",
        "room lobby, live mode",
    ),
)


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
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait half a second for a lock instead of ten."""
    monkeypatch.setattr(transaction, "borrowed", partial(borrowed, within_s=0.5))


async def noted(pool: Pool) -> list[tuple[str, str, str]]:
    """Return (action, target, detail), oldest first, without the entries of creating the project."""
    rows = await pool.fetch(
        "SELECT action, target, detail FROM audit_log WHERE action LIKE 'room_%' OR action LIKE 'participant_%' ORDER BY id"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(("path", "actions", "target", "detail"), ACTS)
async def test_an_action_is_in_the_audit_log_before_livekit_acts(
    api: httpx.AsyncClient,
    pool: Pool,
    project: CreatedProject,
    livekit: FakeLiveKit,
    path: str,
    actions: tuple[str, str, str],
    target: str,
    detail: str,
) -> None:
    livekit.add_participant(livekit_room(project.project_id, "live", "lobby"), "ada")
    livekit.gate = asyncio.Event()
    answer = asyncio.create_task(api.delete(path, headers=key_of(project)))
    async with asyncio.timeout(15):
        while not livekit.waiting:
            assert not answer.done()
            await asyncio.sleep(0.01)
    assert await noted(pool) == [(actions[0], target, detail)]
    livekit.gate.set()
    assert (await answer).status_code == 204
    assert await noted(pool) == [(actions[1], target, detail)]
    actor = await pool.fetchval("SELECT actor FROM audit_log WHERE action = $1", actions[1])
    assert actor.startswith("API key ")


@pytest.mark.parametrize(("path", "actions", "target", "detail"), ACTS)
async def test_a_failed_action_is_recorded_with_its_reason(
    api: httpx.AsyncClient,
    pool: Pool,
    project: CreatedProject,
    livekit: FakeLiveKit,
    path: str,
    actions: tuple[str, str, str],
    target: str,
    detail: str,
) -> None:
    assert (await api.delete(path, headers=key_of(project))).status_code == 404
    livekit.failure = twirp_failure(408, "deadline_exceeded")
    assert (await api.delete(path, headers=key_of(project))).status_code == 504
    (missing, slow) = await noted(pool)
    assert missing == (actions[2], target, f"{detail}: not found")
    assert slow[:2] == (actions[2], target)
    assert slow[2].startswith(f"{detail}: LiveKit")


@pytest.mark.usefixtures("short_waits")
async def test_an_action_that_cannot_be_recorded_is_not_carried_out(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    livekit.add_participant(livekit_room(project.project_id, "live", "lobby"), "ada")
    assert (await api.get("/v1/rooms", headers=key_of(project))).status_code == 200
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
        answer = await api.delete("/v1/rooms/lobby", headers=key_of(project))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert livekit.orders("DeleteRoom") == []


@pytest.mark.usefixtures("short_waits")
async def test_an_outcome_that_cannot_be_recorded_does_not_change_the_answer(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    livekit.add_participant(livekit_room(project.project_id, "live", "lobby"), "ada")
    livekit.gate = asyncio.Event()
    answer = asyncio.create_task(api.delete("/v1/rooms/lobby", headers=key_of(project)))
    async with asyncio.timeout(15):
        while not livekit.waiting:
            assert not answer.done()
            await asyncio.sleep(0.01)
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
        livekit.gate.set()
        assert (await answer).status_code == 204
    assert await noted(pool) == [("room_ending", "lobby", "live mode")]


async def test_erasing_an_identity_changes_its_audit_log_entries(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    livekit.add_participant(livekit_room(project.project_id, "live", "lobby"), "ada")
    for _ in range(2):  # the first call removes ada, the second finds nobody
        await api.delete("/v1/rooms/lobby/participants/ada", headers=key_of(project))
    async with pool.acquire() as conn, conn.transaction():
        erased = await erase_identity(conn, project.project_id, "ada")
    entries = await noted(pool)
    assert [entry[1] for entry in entries] == [erased.pseudonym] * 2
    assert not any("ada" in detail for _, _, detail in entries)
