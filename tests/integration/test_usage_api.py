"""`GET /v1/usage`: all ranges, granularities, groups and formats give the same numbers."""

import csv
import io
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.cli.projects import create_project
from shared.infra.clock import DAY_MS, HOUR_MS, floor_to, rfc3339
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.ledger.bill import fold_runs, fold_sessions
from shared.metering.state import Session, Track
from shared.models.projects import CreatedProject
from shared.usage import ranking
from tests.integration.conftest import LAST_NOON_MS, SetClock, Standing, key_of
from tests.integration.test_usage_ranges import some_run, some_session

FIELDS = (
    "participantMinutes",
    "videoMinutes",
    "audioMinutes",
    "observedMinutes",
    "inferredMinutes",
    "provisionalMinutes",
)
TODAY = floor_to(LAST_NOON_MS, DAY_MS)


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


def millionths(value: float) -> int:
    return round(value * 1_000_000)


async def usage(api: httpx.AsyncClient, headers: dict[str, str], **params: Any) -> dict[str, Any]:
    answer = await api.get("/v1/usage", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.fixture
async def busy(pool: Pool, project: CreatedProject) -> CreatedProject:
    """Store sixty sessions of every kind over the last days, and media runs.

    Some sessions have no end, and some have an inferred end.
    """
    rng = random.Random(7)
    sessions = []
    for number in range(60):
        one = some_session(rng, number, project.project_id)
        start_ms = TODAY - rng.randrange(1, 4 * DAY_MS)
        shift = start_ms - (one.joined_ms or 0)
        tracks = {
            sid: Track(
                track.type,
                track.source,
                None if track.published_ms is None else track.published_ms + shift,
                None if track.unpublished_ms is None else track.unpublished_ms + shift,
            )
            for sid, track in one.tracks.items()
        }
        left_ms = None if one.left_ms is None else min(one.left_ms + shift, LAST_NOON_MS)
        gone_ms = LAST_NOON_MS if left_ms is None and rng.random() < 0.5 else None
        values = {"joined_ms": start_ms, "left_ms": left_ms, "gone_ms": gone_ms, "tracks": tracks}
        sighted = {"sighted_ms": start_ms + HOUR_MS} if gone_ms is not None else {}
        sessions.append(Session(**{**{f: getattr(one, f) for f in one.__struct_fields__}, **values, **sighted}))
    runs = [
        type(run)(
            **{**{f: getattr(run, f) for f in run.__struct_fields__}, "started_ms": TODAY - HOUR_MS, "ended_ms": end}
        )
        for run, end in ((some_run(rng, n, project.project_id), rng.choice([None, TODAY + 1])) for n in range(5))
    ]
    async with pool.acquire() as conn, conn.transaction():
        await fold_sessions(conn, sessions, [], LAST_NOON_MS, await fold_runs(conn, runs))
        await conn.execute("UPDATE session SET confirmed_ms = $1 WHERE ended_ms IS NULL", LAST_NOON_MS)
    return project


async def test_every_granularity_and_grouping_has_the_same_totals(api: httpx.AsyncClient, busy: CreatedProject) -> None:
    """Open sessions grow with each request, so the test compares past days, which do not change."""
    headers, span = key_of(busy), {"from": rfc3339(TODAY - 5 * DAY_MS), "to": rfc3339(TODAY)}
    plain = await usage(api, headers, **span)
    assert (plain["period"], plain["from"], plain["to"], plain["granularity"]) == ("custom", *span.values(), "day")
    assert len(plain["daily"]) == 5
    assert plain["totals"]["inferredMinutes"] > 0 < plain["totals"]["provisionalMinutes"]
    assert plain["inferredMinutes"] == plain["totals"]["inferredMinutes"]
    for granularity, series in (("hour", "hourly"), ("day", "daily"), ("month", "monthly")):
        found = await usage(api, headers, **span, granularity=granularity, groupBy="kind")
        assert found["totals"] == plain["totals"] or granularity != "day"
        for field in ("participantMinutes", "videoMinutes", "audioMinutes", "sessions"):
            assert found["totals"][field] == plain["totals"][field]
        for field in (*FIELDS, "screenShareMinutes"):
            parts = [found[series], found["groups"], [p for group in found["groups"] for p in group[series]]]
            for cut in parts:
                assert sum(millionths(one[field]) for one in cut) == millionths(found["totals"][field])
        assert max(one["peakParticipants"] for one in found[series]) == max(
            one["peakParticipants"] for one in plain["daily"]
        )
    for dimension in ("room", "identity"):
        pages, cursor = [], None
        while True:
            page = await usage(
                api, headers, **span, groupBy=dimension, limit=2, **({"cursor": cursor} if cursor else {})
            )
            assert page["totals"] == plain["totals"]
            assert len(page["groups"]) <= 2
            pages += page["groups"]
            cursor = page["nextCursor"]
            if cursor is None:
                break
        assert len({group[dimension] for group in pages}) == len(pages)
        for field in ("participantMinutes", "videoMinutes", "audioMinutes"):
            assert sum(millionths(group[field]) for group in pages) == millionths(plain["totals"][field])
        assert sum(group["sessions"] for group in pages) == plain["totals"]["sessions"]
        for group in pages:
            assert millionths(group["participantMinutes"]) == sum(millionths(group[field]) for field in FIELDS[3:])
        top = await usage(api, headers, **span, groupBy=dimension, order="minutes", limit=2)
        assert top["groupCount"] == len(pages)
        ranked = sorted((-round(group["participantMinutes"], 3), group[dimension]) for group in pages)
        assert [group[dimension] for group in top["groups"]] == [name for _, name in ranked[:2]]
        for field in FIELDS:
            told = sum(millionths(group[field]) for group in (*top["groups"], top["rest"]))
            assert told == millionths(top["totals"][field])


async def test_csv_and_json_hold_the_same_numbers(api: httpx.AsyncClient, busy: CreatedProject) -> None:
    span = {"from": rfc3339(TODAY - 5 * DAY_MS), "to": rfc3339(TODAY)}
    cases: list[tuple[dict[str, Any], Callable[[Any], list[dict[str, Any]]]]] = [
        ({}, lambda json: json["daily"]),
        ({"granularity": "hour"}, lambda json: json["hourly"]),
        ({"granularity": "month"}, lambda json: json["monthly"]),
        ({"groupBy": "room", "limit": 3}, lambda json: json["groups"]),
        ({"groupBy": "identity", "order": "minutes"}, lambda json: json["groups"]),
        ({"groupBy": "kind"}, lambda json: [{**p, "kind": g["kind"]} for g in json["groups"] for p in g["daily"]]),
    ]
    for params, rows_of in cases:
        json = await usage(api, key_of(busy), **span, **params)
        answer = await api.get("/v1/usage", params={**span, **params}, headers={**key_of(busy), "Accept": "text/csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["vary"] == "accept"
        assert answer.headers.get("relay-next-cursor") == json.get("nextCursor")
        table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        wanted = rows_of(json)
        if "kind" in params.values():
            wanted = sorted(wanted, key=lambda row: (row["date"], row["kind"]))
        assert len(table) == len(wanted)
        for row, one in zip(table, wanted, strict=True):
            for column, cell in row.items():
                if column in ("egressMinutes", "ingressMinutes"):
                    assert float(cell) == one[column.removesuffix("Minutes")]["minutes"]
                elif column.startswith("lateChange"):
                    assert (cell == "") is ("lateChange" not in one)
                elif isinstance(one[column], str):
                    assert cell.lstrip("'") == one[column]
                else:
                    assert float(cell) == one[column]


async def test_csv_cells_are_not_read_as_formulas(api: httpx.AsyncClient, pool: Pool, project: CreatedProject) -> None:
    names = ["=1+1", "+cmd", "-2", "@sum", "\tx", 'a "quoted", name', "plain"]
    sessions = [
        Session(
            sid=f"PA_{n}", project_id=project.project_id, mode="live", room="r", identity=name,
            joined_ms=TODAY, left_ms=TODAY + 6_000,
        )
        for n, name in enumerate(names)
    ]  # fmt: skip
    async with pool.acquire() as conn, conn.transaction():
        await fold_sessions(conn, sessions, [], TODAY + DAY_MS)
    params = {"period": "today", "groupBy": "identity"}
    headers = {**key_of(project), "Accept": "text/csv, application/json;q=0.5"}
    table = list(
        csv.DictReader(io.StringIO((await api.get("/v1/usage", params=params, headers=headers)).text, newline=""))
    )
    cells = {row["identity"] for row in table}
    assert cells == {"'=1+1", "'+cmd", "'-2", "'@sum", "'\tx", 'a "quoted", name', "plain"}
    assert {row["participantMinutes"] for row in table} == {"0.1"}
    json = await usage(api, key_of(project), **params)
    assert {group["identity"] for group in json["groups"]} == set(names)


async def test_ranges_are_cut_and_aligned_at_their_edges(api: httpx.AsyncClient, project: CreatedProject) -> None:
    headers = key_of(project)
    for params, series, length, end in (
        ({"from": rfc3339(TODAY)}, "daily", 1, TODAY + DAY_MS),
        ({"from": rfc3339(TODAY - DAY_MS), "to": rfc3339(TODAY + 9 * DAY_MS)}, "daily", 2, TODAY + DAY_MS),
        ({"from": rfc3339(TODAY - DAY_MS), "to": rfc3339(TODAY), "granularity": "hour"}, "hourly", 24, TODAY),
        ({"from": rfc3339(TODAY - 31 * DAY_MS), "to": rfc3339(TODAY), "granularity": "hour"}, "hourly", 744, TODAY),
        ({"period": "today", "granularity": "hour"}, "hourly", 24, TODAY + DAY_MS),
    ):
        answer = await usage(api, headers, **params)
        assert (len(answer[series]), answer["to"]) == (length, rfc3339(end))
        assert answer[series][0]["date"] == answer["from"]
        assert [key for key in ("hourly", "daily", "monthly") if key in answer] == [series]
    offset = await usage(api, headers, **{"from": rfc3339(TODAY - DAY_MS).replace("00:00:00.000Z", "05:30:00+05:30")})
    assert offset["from"] == rfc3339(TODAY - DAY_MS)
    months = await usage(api, headers, granularity="month")
    assert months["monthly"][0]["date"] == months["from"] == rfc3339(TODAY - 29 * DAY_MS)
    assert all(month["date"].endswith("-01T00:00:00.000Z") for month in months["monthly"][1:])


async def test_usage_of_other_projects_and_modes_is_hidden(
    api: httpx.AsyncClient, busy: CreatedProject, settings: Settings
) -> None:
    other = await create_project(settings.database, "other")
    for headers in (key_of(busy, "test"), key_of(other), key_of(other, "test")):
        for grouping in ("room", "identity", "kind"):
            for order in ("name", "minutes") if grouping != "kind" else (None,):
                found = await usage(api, headers, period="7d", groupBy=grouping, **({"order": order} if order else {}))
                assert found["groups"] == []
                assert all(one["peakParticipants"] == one["identities"] == 0 for one in found["daily"])
                assert found["totals"]["sessions"] == found["totals"]["egress"]["runs"] == 0


async def test_a_day_that_changed_after_its_end_has_a_late_change(
    api: httpx.AsyncClient, pool: Pool, project: CreatedProject
) -> None:
    start_ms, late_ms = TODAY - 2 * DAY_MS, TODAY + HOUR_MS
    late = Session(
        sid="PA_late",
        project_id=project.project_id,
        mode="live",
        room="r",
        joined_ms=start_ms,
        left_ms=start_ms + 90_000,
    )
    async with pool.acquire() as conn, conn.transaction():
        await fold_sessions(conn, [late], [], late_ms)
    daily = (await usage(api, key_of(project), period="7d"))["daily"]
    assert [day["date"] for day in daily if "lateChange" in day] == [rfc3339(start_ms)]
    change = next(day["lateChange"] for day in daily if "lateChange" in day)
    assert (change["at"], change["participantMinutes"], change["audioMinutes"]) == (rfc3339(late_ms), 1.5, 1.5)


async def test_ranking_too_many_groups_is_refused(
    api: httpx.AsyncClient, busy: CreatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MAX_ROWS_TO_RANK", 3)
    params = {"groupBy": "room", "order": "minutes"}
    answer = await api.get("/v1/usage", params=params, headers=key_of(busy))
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_groups")
    assert len((await usage(api, key_of(busy), groupBy="room"))["groups"]) == 6


@pytest.mark.parametrize(
    ("params", "param", "code"),
    [
        ({"period": "1y"}, "period", "invalid_request"),
        ({"period": ""}, "period", "invalid_request"),
        ({"peroid": "7d"}, "peroid", "unknown_field"),
        ({"granularity": "week"}, "granularity", "invalid_request"),
        ({"groupBy": "project"}, "groupBy", "invalid_request"),
        ({"groupby": "room"}, "groupby", "unknown_field"),
        ({"to": "2026-01-01T00:00:00Z"}, "from", "missing_field"),
        ({"from": "2026-01-01T00:00:00Z", "period": "7d"}, "period", "invalid_request"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from", "invalid_request"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from", "invalid_request"),
        ({"from": "2999-01-01T00:00:00Z"}, "from", "invalid_request"),
        ({"from": "2999-01-01T00:00:00Z", "to": "2999-02-01T00:00:00Z"}, "from", "invalid_request"),
        ({"from": "2026-01-01"}, "from", "invalid_request"),
        ({"from": "1760000000"}, "from", "invalid_request"),
        ({"from": "2026-02-30T00:00:00Z"}, "from", "invalid_request"),
        ({"from": "0001-01-01T00:00:00+09:00"}, "from", "invalid_request"),
        ({"from": "2026-01-01T01:00:00Z"}, "from", "invalid_request"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:01Z"}, "to", "invalid_request"),
        ({"from": "2026-01-01T00:30:00Z", "granularity": "hour"}, "from", "invalid_request"),
        ({"from": "2026-01-01T01:00:00Z", "granularity": "month"}, "from", "invalid_request"),
        ({"from": "2025-01-01T00:00:00Z", "granularity": "hour"}, "from", "range_too_long"),
        ({"from": "1990-01-01T00:00:00Z"}, "from", "range_too_long"),
        ({"from": "2020-01-01T00:00:00Z", "groupBy": "room"}, "from", "range_too_long"),
        ({"from": "2026-01-01T01:00:00Z", "to": "2026-01-01T05:00:00Z", "granularity": "hour", "groupBy": "room"},
         "from", "invalid_request"),
        ({"limit": "5"}, "limit", "invalid_request"),
        ({"order": "minutes", "groupBy": "kind"}, "order", "invalid_request"),
        ({"groupBy": "room", "limit": "501"}, "limit", "invalid_request"),
        ({"groupBy": "room", "limit": "-1"}, "limit", "invalid_request"),
        ({"groupBy": "room", "order": "size"}, "order", "invalid_request"),
        ({"groupBy": "room", "order": "minutes", "cursor": "x"}, "cursor", "invalid_request"),
        ({"groupBy": "room", "cursor": "e30"}, "cursor", "invalid_cursor"),
        ([("period", "7d"), ("period", "30d")], "period", "invalid_request"),
    ],
)  # fmt: skip
async def test_a_bad_parameter_is_refused_with_its_name_and_code(
    standing: Standing, params: Any, param: str, code: str
) -> None:
    answer = await standing.api.get("/v1/usage", params=params, headers=key_of(standing.project))
    assert answer.status_code == 400, answer.text
    assert (answer.json()["param"], answer.json()["code"]) == (param, code)
