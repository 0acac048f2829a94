"""`GET /v1/sessions` and `GET /v1/events`: complete pages of the own project and mode.

Pages neither repeat nor miss an entry that existed at the first page.
"""

import json
import time
from typing import Any

import httpx
import pytest

from services.api.events.service import event_for
from services.cli.projects import create_project
from shared.errors import InvalidRequest
from shared.infra.clock import rfc3339
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.ledger.fold import fold_batch
from shared.listings.queries import event_pages, pages
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.models.scope import Scope
from tests.integration.conftest import Standing, key_of
from tests.livekit_bodies import body, meeting, participant, room

START_S = int(time.time()) // 3600 * 3600 - 7200


async def fold(pool: Pool, bodies: list[bytes], own: bool = False) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, [Received(now_ms, one) for one in bodies], own=own)


async def get(api: httpx.AsyncClient, path: str, headers: dict[str, str], **params: Any) -> dict[str, Any]:
    answer = await api.get(f"/v1/{path}", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def walk(api: httpx.AsyncClient, path: str, headers: dict[str, str], **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = await get(api, path, headers, **params)
        found += answer[path]
        if answer["nextCursor"] is None:
            return found
        params["cursor"] = answer["nextCursor"]


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


@pytest.fixture
async def lobby(pool: Pool, project: CreatedProject) -> str:
    """Fold five meetings, a minute apart. Returns LiveKit's name of their room."""
    name = livekit_room(project.project_id, "live", "lobby")
    for number in range(5):
        await fold(pool, meeting(name, start_s=START_S + 60 * number, tag=f"m{number}"))
    return name


async def test_a_session_has_all_fields(api: httpx.AsyncClient, project: CreatedProject, lobby: str) -> None:
    sessions = await walk(api, "sessions", key_of(project))
    assert len(sessions) == 10
    assert [s["startedAt"] for s in sessions] == sorted((s["startedAt"] for s in sessions), reverse=True)
    detail = await get(api, "sessions/PA_m01", key_of(project))
    listed = next(s for s in sessions if s["sid"] == "PA_m01")
    (track,) = detail.pop("tracks")
    assert detail == listed
    assert (listed["room"], listed["identity"], listed["kind"], listed["endedBy"]) == (
        "lobby",
        "ada",
        "STANDARD",
        "left",
    )
    assert listed["completeness"] == "observed"
    assert round(listed["participantMinutes"] * 60_000) == 600_000 - 250
    assert round(listed["videoMinutes"] * 60_000) == 299_000
    assert listed["participantMinutes"] == pytest.approx(listed["videoMinutes"] + listed["audioMinutes"], abs=1e-9)
    assert (track["sid"], track["type"], track["source"]) == ("TR_m01", "VIDEO", "CAMERA")
    assert track["publishedAt"] < track["unpublishedAt"]
    assert listed["endedAt"] == listed["countedUntil"]


async def test_usage_equals_the_sum_of_the_sessions(
    api: httpx.AsyncClient, project: CreatedProject, lobby: str
) -> None:
    sessions = await walk(api, "sessions", key_of(project), limit=3)
    totals = (await get(api, "usage", key_of(project), period="7d"))["totals"]
    for field in ("participantMinutes", "videoMinutes", "audioMinutes", "screenShareMinutes"):
        assert round(totals[field] * 60_000) == sum(round(session[field] * 60_000) for session in sessions)
    assert totals["sessions"] == len(sessions)


async def test_open_sessions_are_provisional_and_filters_combine(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject, lobby: str
) -> None:
    headers = key_of(project)
    stage = room(livekit_room(project.project_id, "live", "stage"), "RM_s", START_S)
    bot = participant("PA_bot", "ada", START_S * 1000 + 999_000, kind="AGENT")
    await fold(pool, [body("participant_joined", "EV_bot", START_S + 999, room=stage, participant=bot)])

    async def sids(**params: Any) -> set[str]:
        return {session["sid"] for session in await walk(api, "sessions", headers, limit=2, **params)}

    assert await sids(status="open") == await sids(kind="AGENT") == await sids(room="stage") == {"PA_bot"}
    assert await sids(status="open", room="lobby") == await sids(kind="SIP") == await sids(identity="eve") == set()
    assert len(await sids(status="ended")) == 10
    assert await sids(identity="ada") == {"PA_bot", *(f"PA_m{n}1" for n in range(5))}
    assert await sids(identity="ada", room="stage", kind="AGENT", status="open") == {"PA_bot"}
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START_S + 60))
    until = time.strftime("%Y-%m-%dT%H:%M:%S.251+01:00", time.gmtime(START_S + 3600 + 120))
    assert await sids(identity="ada", room="lobby", **{"from": since, "to": until}) == {"PA_m11", "PA_m21"}
    detail = await get(api, "sessions/PA_bot", headers)
    assert (detail["completeness"], detail["endedAt"], detail["endedBy"]) == ("provisional", None, None)


@pytest.mark.parametrize(("path", "key"), [("sessions", "sid"), ("events", "id")])
async def test_pages_are_stable_while_data_arrives(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject, lobby: str, path: str, key: str
) -> None:
    """Entries of the first moment are seen exactly once, whatever arrives before, between and after them."""
    there = [one[key] for one in await walk(api, path, key_of(project), limit=200)]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 3}
    for number in range(100):
        answer = await get(api, path, key_of(project), **params)
        seen += [one[key] for one in answer[path]]
        for shift in (-600, 60 * number, 6000):
            await fold(pool, meeting(lobby, start_s=START_S + shift, seconds=20, tag=f"x{number}{shift}"))
        if answer["nextCursor"] is None or set(there) <= set(seen):
            break
        params["cursor"] = answer["nextCursor"]
    assert len(seen) == len(set(seen))
    assert [one for one in seen if one in set(there)] == there


async def test_rare_matches_are_found_in_bounded_pages(
    api: httpx.AsyncClient, project: CreatedProject, lobby: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "SCANNED", 4)
    first = await get(api, "events", key_of(project), event="room_started")
    assert len(first["events"]) < 5
    assert first["nextCursor"] is not None
    found = await walk(api, "events", key_of(project), event="room_started")
    assert len(found) == 5
    for one in (
        await walk(api, "sessions", key_of(project), kind="STANDARD"),
        await walk(api, "sessions", key_of(project)),
    ):
        assert len(one) == 10


async def test_event_payloads_are_as_livekit_sent_them(
    api: httpx.AsyncClient, project: CreatedProject, lobby: str
) -> None:
    events = await walk(api, "events", key_of(project), limit=7)
    assert len(events) == 40
    sent = {json.loads(one)["id"]: json.loads(one) for one in meeting(lobby, start_s=START_S, tag="m0")}
    for event in events:
        if event["id"] in sent:
            assert event["payload"] == sent[event["id"]]
            assert event["event"] == event["payload"]["event"]
    left = await walk(api, "events", key_of(project), event="participant_left", identity="bob", room="lobby")
    assert [(event["event"], event["identity"]) for event in left] == [("participant_left", "bob")] * 5
    of_session = await walk(api, "events", key_of(project), session="PA_m01")
    names = [event["event"] for event in of_session]
    assert sorted(names) == ["participant_joined", "participant_left", "track_published", "track_unpublished"]
    assert await walk(api, "events", key_of(project), session="PA_nobody") == []


async def test_one_event_is_found_by_its_id_and_time(pool: Pool, project: CreatedProject, settings: Settings) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    # Many events of one second: the query does not scan them.
    await fold(pool, [body("room_started", f"EV_{number}", START_S, room=room(name, "RM_1")) for number in range(300)])
    at, scope = rfc3339(START_S * 1000), Scope(project.project_id, "live")
    found = await event_for(pool, scope, "EV_123", at)
    assert found is not None
    assert (found.id, found.event, found.room, found.created_at) == ("EV_123", "room_started", "lobby", at)
    other = await create_project(settings.database, "other")
    for asked in (Scope(other.project_id, "live"), Scope(project.project_id, "test")):
        assert await event_for(pool, asked, "EV_123", at) is None
    for event_id, when in (("EV_300", at), ("EV_\0", at), ("EV_123", rfc3339(START_S * 1000 + 1000))):
        assert await event_for(pool, scope, event_id, when) is None
    with pytest.raises(InvalidRequest):
        await event_for(pool, scope, "EV_123", "yesterday")


async def test_the_proof_of_an_inferred_end_is_among_the_sessions_events(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    """LiveKit was unreachable for hours. Afterwards it no longer knew the participant."""
    lobby = room(livekit_room(project.project_id, "live", "lobby"), "RM_1", START_S)
    who = participant("PA_1", "ada", START_S * 1000)
    gone = {"seenMs": str(START_S * 1000 + 60_000), "goneMs": str(START_S * 1000 + 6_990_000)}
    await fold(pool, [body("participant_joined", "EV_1", START_S, room=lobby, participant=who)])
    learned = body("relay_participant_gone", "EV_2", START_S + 7000, room=lobby, participant=who, relay=gone)
    await fold(pool, [learned], own=True)
    assert (await get(api, "sessions/PA_1", key_of(project)))["endedBy"] == "reconciled"
    of_session = await walk(api, "events", key_of(project), session="PA_1")
    assert [event["id"] for event in of_session] == ["EV_2", "EV_1"]


@pytest.mark.parametrize("filters", [{}, {"room": "lobby"}])
async def test_a_page_of_events_is_bounded_in_bytes(
    api: httpx.AsyncClient,
    project: CreatedProject,
    lobby: str,
    monkeypatch: pytest.MonkeyPatch,
    filters: dict[str, str],
) -> None:
    """A client that creates tokens chooses the size of events. A page must fit into a process's memory."""
    every = await walk(api, "events", key_of(project), limit=200, **filters)
    sizes = {event["id"]: len(json.dumps(event["payload"], separators=(",", ":"))) for event in every}
    most = max(sizes.values())
    for bound in (1, 3 * most):
        monkeypatch.setattr(event_pages, "PAGE_BYTES", bound)
        page = await get(api, "events", key_of(project), limit=200, **filters)
        assert 1 <= len(page["events"]) < len(every)
        assert sum(sizes[event["id"]] for event in page["events"][:-1]) < bound
        assert await walk(api, "events", key_of(project), limit=200, **filters) == every


async def test_a_rooms_turn_password_is_never_shown(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    where = {**room(livekit_room(project.project_id, "live", "lobby")), "turnPassword": "s3cret"}
    await fold(pool, [body("room_started", "EV_1", START_S, room=where)])
    (event,) = await walk(api, "events", key_of(project))
    assert event["payload"]["room"] == {key: value for key, value in where.items() if key != "turnPassword"}


async def test_sessions_and_events_of_other_projects_and_modes_are_hidden(
    api: httpx.AsyncClient, project: CreatedProject, settings: Settings, lobby: str
) -> None:
    other = await create_project(settings.database, "other")
    for headers in (key_of(project, "test"), key_of(other), key_of(other, "test")):
        assert await walk(api, "sessions", headers) == await walk(api, "events", headers) == []
        assert await walk(api, "events", headers, session="PA_m01") == []
        answer = await api.get("/v1/sessions/PA_m01", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    mine = await get(api, "sessions", key_of(project), limit=2)
    # A cursor holds a position and grants nothing. Another project's key finds its own sessions with it, which are none.
    assert (await get(api, "sessions", key_of(other), limit=2, cursor=mine["nextCursor"]))["sessions"] == []


@pytest.mark.parametrize("path", ["sessions", "events"])
@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"form": "2026-01-01T00:00:00Z"}, "form"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-01-01"}, "from"),
        ({"from": "2026-13-01T00:00:00Z"}, "from"),
        ({"to": "2026-01-01T00:00:00"}, "to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, "from"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "W10"}, "cursor"),
        ({"cursor": "A" * 3000}, "cursor"),
        ({"room": ""}, "room"),
        ({"room": "a\0b"}, "room"),
        ({"identity": "x" * 513}, "identity"),
        ([("room", "a"), ("room", "b")], "room"),
    ],
)
async def test_a_bad_parameter_is_refused_with_its_name(standing: Standing, path: str, params: Any, param: str) -> None:
    answer = await standing.api.get(f"/v1/{path}", params=params, headers=key_of(standing.project))
    assert (answer.status_code, answer.json()["param"]) == (400, param)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_values_and_cursors_of_another_listing_are_refused(
    api: httpx.AsyncClient, project: CreatedProject, lobby: str
) -> None:
    headers = key_of(project)
    for path, params in (("sessions", {"status": "closed"}), ("sessions", {"event": "x"}), ("events", {"kind": "SIP"})):
        answer = await api.get(f"/v1/{path}", params=params, headers=headers)
        assert (answer.status_code, answer.json()["param"]) == (400, next(iter(params)))
    cursor = (await get(api, "sessions", headers, limit=1))["nextCursor"]
    for path, more in (("sessions", {"room": "lobby"}), ("events", {})):
        answer = await api.get(f"/v1/{path}", params={"cursor": cursor, **more}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")
    for sid in ("PA_nobody", "a%00b", "%F0%9F%92%A9"):
        answer = await api.get(f"/v1/sessions/{sid}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    for path in ("sessions", "sessions/PA_m01", "events"):
        assert (await api.get(f"/v1/{path}")).status_code == 401
        assert (await api.get(f"/v1/{path}", headers=key_of(project, "live", "publishable"))).status_code == 403
