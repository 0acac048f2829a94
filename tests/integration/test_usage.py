"""`GET /v1/usage`: days, totals, peaks and open sessions of one project and mode."""

import time
from typing import Any

import httpx
import pytest

from services.cli.projects import create_project
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.ledger.fold import fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.integration.conftest import LAST_NOON_MS, SetClock, key_of
from tests.livekit_bodies import body, meeting, meeting_usage, participant, room


@pytest.fixture(scope="module")
def api_clock() -> SetClock:
    return SetClock(LAST_NOON_MS)


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient, api_clock: SetClock) -> httpx.AsyncClient:
    api_clock.at_ms = LAST_NOON_MS
    return shared_api


async def fold(pool: Pool, bodies: list[bytes]) -> None:
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, [Received(LAST_NOON_MS, one) for one in bodies])


async def usage(api: httpx.AsyncClient, headers: dict[str, str], period: str = "7d") -> dict[str, Any]:
    answer = await api.get("/v1/usage", params={"period": period}, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_usage_of_a_project_without_traffic_is_zero(api: httpx.AsyncClient, project: CreatedProject) -> None:
    for period, days in (("today", 1), ("7d", 7), ("30d", 30), ("all", 1)):
        answer = await usage(api, key_of(project), period)
        assert answer["period"] == period
        assert len(answer["daily"]) == days
        assert {answer["totals"][name] for name in ("participantMinutes", "videoMinutes", "audioMinutes")} == {0.0}
    assert (await api.get("/v1/usage", headers=key_of(project))).json()["period"] == "30d"


async def test_period_all_begins_with_an_egress_older_than_any_session(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    start_s = LAST_NOON_MS // 1000 - 40 * 86400
    name = livekit_room(project.project_id, "live", "lobby")
    recorded = {
        "egressId": "EG_1",
        "roomName": name,
        "startedAt": str(start_s * 10**9),
        "endedAt": str((start_s + 600) * 10**9),
    }
    await fold(pool, [body("egress_ended", "EV_1", start_s + 600, egressInfo=recorded)])
    await fold(pool, meeting(name, start_s=LAST_NOON_MS // 1000 - 86400))
    answer = await usage(api, key_of(project), "all")
    assert len(answer["daily"]) == 41
    assert answer["totals"]["egress"]["minutes"] == 10
    assert answer["totals"]["egress"]["runs"] == 1


async def test_days_totals_and_peaks_of_a_meeting_over_midnight(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    today = floor_to(LAST_NOON_MS, DAY_MS) // 1000
    name = livekit_room(project.project_id, "live", "lobby")
    # Ten minutes around the midnight three days ago. The second participant joins exactly when the new day begins.
    await fold(pool, meeting(name, start_s=today - 3 * 86400 - 300, tag="m"))
    answer = await usage(api, key_of(project))
    days = answer["daily"]
    dates = [time.strftime("%Y-%m-%dT00:00:00.000Z", time.gmtime(today - n * 86400)) for n in range(6, -1, -1)]
    assert [day["date"] for day in days] == dates
    participant_ms, video_ms = meeting_usage()
    assert round(answer["totals"]["participantMinutes"] * 60_000) == participant_ms
    assert round(answer["totals"]["videoMinutes"] * 60_000) == video_ms
    before, after = days[2], days[3]
    assert [round(before[k] * 60_000) for k in ("participantMinutes", "videoMinutes")] == [299_750, 299_000]
    assert [round(after[k] * 60_000) for k in ("participantMinutes", "videoMinutes")] == [599_500, 0]
    assert [day["peakParticipants"] for day in days] == [0, 0, 1, 2, 0, 0, 0]
    for part in (*days, answer["totals"]):
        assert round(part["participantMinutes"] * 1e6) == round(part["videoMinutes"] * 1e6) + round(
            part["audioMinutes"] * 1e6
        )
    for field in ("participantMinutes", "videoMinutes", "audioMinutes"):
        assert round(answer["totals"][field] * 1e6) == sum(round(day[field] * 1e6) for day in days)


async def test_open_sessions_count_up_to_now_and_are_not_stored(
    api: httpx.AsyncClient, api_clock: SetClock, pool: Pool, project: CreatedProject
) -> None:
    since_ms = LAST_NOON_MS - 2 * DAY_MS
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_open", "ada", since_ms)
    at_s = since_ms // 1000
    await fold(pool, [body("participant_joined", "EV_1", at_s, room=room(name, created_s=at_s), participant=ada)])
    async with pool.acquire() as conn:
        await conn.execute("UPDATE session SET confirmed_ms = $1", LAST_NOON_MS)
    first = await usage(api, key_of(project))
    assert first["provisionalMinutes"] == first["totals"]["participantMinutes"]
    assert first["provisionalMinutes"] == 2 * 24 * 60
    assert [day["peakParticipants"] for day in first["daily"]] == [0, 0, 0, 0, 1, 1, 1]
    assert first["daily"][-1]["identities"] == first["daily"][-1]["rooms"] == 1
    api_clock.at_ms += 60_000
    second = await usage(api, key_of(project))
    assert second["totals"]["participantMinutes"] == 2 * 24 * 60 + 1
    left = {**ada, "state": "DISCONNECTED"}
    await fold(pool, [body("participant_left", "EV_2", at_s + 60, room=room(name, created_s=at_s), participant=left)])
    closed = await usage(api, key_of(project))
    assert closed["provisionalMinutes"] == 0
    assert closed["totals"]["participantMinutes"] == pytest.approx(1, abs=0.02)
    assert [day["peakParticipants"] for day in closed["daily"]] == [0, 0, 0, 0, 1, 0, 0]


async def test_usage_of_modes_and_projects_is_separate(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject, settings: Settings
) -> None:
    other = await create_project(settings.database, "other")
    start = LAST_NOON_MS // 1000 - 3600
    await fold(pool, meeting(livekit_room(project.project_id, "test", "lobby"), start_s=start, tag="t"))
    minutes = [
        (await usage(api, key_of(owner, mode)))["totals"]["participantMinutes"]  # type: ignore[arg-type]  # a literal in a loop
        for owner, mode in ((project, "live"), (project, "test"), (other, "live"), (other, "test"))
    ]
    assert [round(value * 60_000) for value in minutes] == [0, meeting_usage()[0], 0, 0]


async def test_bad_parameters_and_missing_keys_are_refused(api: httpx.AsyncClient, project: CreatedProject) -> None:
    headers = key_of(project)
    for params, param in (({"period": "1y"}, "period"), ({"peroid": "7d"}, "peroid")):
        answer = await api.get("/v1/usage", params=params, headers=headers)
        assert (answer.status_code, answer.json()["param"]) == (400, param)
    assert (await api.get("/v1/usage")).status_code == 401
    publishable = key_of(project, "live", "publishable")
    assert (await api.get("/v1/usage", headers=publishable)).status_code == 403


async def test_recorders_do_not_count_as_participants(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    start = LAST_NOON_MS // 1000 - 600
    name = livekit_room(project.project_id, "live", "lobby")
    for number, kind in enumerate(("EGRESS", "AGENT")):
        who = participant(f"PA_{kind}", kind, start * 1000, kind=kind)
        events = ("participant_joined", start), ("participant_left", start + 60)
        await fold(
            pool,
            [body(e, f"EV_{number}{e}", at, room=room(name, created_s=start), participant=who) for e, at in events],
        )
    answer = await usage(api, key_of(project))
    assert answer["totals"]["participantMinutes"] == 1.0
    assert max(day["peakParticipants"] for day in answer["daily"]) == 1
