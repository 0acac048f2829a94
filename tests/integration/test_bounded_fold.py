"""Events with Relay's reserved names, and times far apart: the fold stays quick and verifiable."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.worker.drain import drain_inbox
from shared.events.queries import events as event_queries
from shared.infra.clock import DAY_MS, HOUR_MS, floor_to
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.ledger.fold import FoldResult, fold_batch
from shared.ledger.proof import Checked
from shared.ledger.rebuild import rebuild
from shared.ledger.verify import verify
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.livekit_bodies import body, participant, room

NOW_S = 1_795_000_000
NOW_MS = NOW_S * 1000


async def differences(pool: Pool) -> list[object]:
    async with pool.acquire() as conn:
        return [found.difference async for found in verify(conn, None, Checked(), lambda _: None)]


FORGED: Mapping[str, dict[str, Any]] = {
    "a name of ours": {"event": "relay_participant_gone", "event_id": "EV_1"},
    "an id of ours": {"event": "participant_left", "event_id": "relay_participant_gone:PA_1:1"},
    "the id of an event without one": {"event": "participant_left", "event_id": "sha256:00"},
}


@pytest.mark.parametrize("what", FORGED)
async def test_received_events_cannot_use_reserved_names(pool: Pool, project: CreatedProject, what: str) -> None:
    where = room(livekit_room(project.project_id, "live", "lobby"))
    who = participant("PA_1", "ada", NOW_MS - 60_000)
    forged = body(**FORGED[what], created_s=NOW_S, room=where, participant=who, relay={"seenMs": 9 * 10**15})
    honest = body("participant_left", "EV_2", NOW_S, room=where, participant=who, relay={"seenMs": 9 * 10**15})
    async with pool.acquire() as conn:
        await event_queries.put_in_inbox(conn, [(0, Received(NOW_MS, one)) for one in (forged, honest)])
        assert await drain_inbox(conn) == 2
        assert await conn.fetchval("SELECT reason FROM set_aside_event") == "reserved_name"
        row = await conn.fetchrow("SELECT started_ms, ended_ms FROM session")
    assert row is not None
    assert tuple(row) == (NOW_MS - 60_000, NOW_MS)
    assert await differences(pool) == []


async def test_an_unstorable_reconciliation_event_is_set_aside_once(pool: Pool, project: CreatedProject) -> None:
    where = room(livekit_room(project.project_id, "live", "lobby"))
    async with pool.acquire() as conn:
        for seconds in (0, 60, 120):
            at_s = NOW_S + seconds
            name = f"relay_participant_seen:PA_1:{at_s}"
            who = participant("PA_1", "a\0da", NOW_MS)
            seen = body(
                "relay_participant_seen", name, at_s, room=where, participant=who, relay={"seenMs": at_s * 1000}
            )
            assert await fold_batch(conn, 0, [Received(at_s * 1000, seen)], own=True) == FoldResult(set_aside=1)
        assert await conn.fetchval("SELECT count(*) FROM set_aside_event") == 1


def left(number: int, joined_ms: int, where: dict[str, Any]) -> Received:
    who = participant(f"PA_{number}", f"p{number % 3}", joined_ms)
    return Received(NOW_MS, body("participant_left", f"EV_{number}", NOW_S, room=where, participant=who))


async def test_long_sessions_and_runs_are_summed_and_verified(pool: Pool, project: CreatedProject) -> None:
    """Sessions and runs of every length up to the maximum, with video, over days that are past.

    What is longer is set aside.
    """
    where = room(livekit_room(project.project_id, "live", "lobby"))
    lengths = [1, HOUR_MS, 49 * HOUR_MS, 3 * DAY_MS + 1, 40 * DAY_MS, 366 * DAY_MS, 367 * DAY_MS]
    batch = [left(number, NOW_MS - length, where) for number, length in enumerate(lengths)]
    for number, length in enumerate(lengths[:-1]):
        egress = {"egressId": f"EG_{number}", "roomName": where["name"], "startedAt": str((NOW_MS - length) * 10**6)}
        ended = {**egress, "endedAt": str(NOW_MS * 10**6)}
        batch.append(Received(NOW_MS, body("egress_ended", f"EV_e{number}", NOW_S, egressInfo=ended)))
    who = {"sid": "PA_4", "identity": "p1"}
    for name, days in (("track_published", 30), ("track_unpublished", 10)):
        track = {"sid": "TR_1", "type": "VIDEO", "source": "SCREEN_SHARE"}
        event = body(name, f"EV_{name}", NOW_S - days * 86_400, room=where, participant=who, track=track)
        batch.append(Received(NOW_MS, event))
    async with pool.acquire() as conn:
        for one in batch:
            await fold_batch(conn, 0, [one])
        assert [row["reason"] for row in await conn.fetch("SELECT reason FROM set_aside_event")] == ["too_long"]
        sums = await conn.fetchrow(
            "SELECT sum(participant_ms)::bigint, sum(video_ms)::bigint, sum(sessions)::int FROM usage_hour"
        )
        assert sums is not None
        assert tuple(sums) == (sum(lengths[:-1]), 20 * DAY_MS, 6)
        groups = await conn.fetchrow("SELECT sum(participant_ms)::bigint, sum(visits)::int FROM usage_group")
        touched = sum(
            1 + (floor_to(NOW_MS, DAY_MS) - floor_to(NOW_MS - length, DAY_MS)) // DAY_MS for length in lengths[:-1]
        )
        assert groups is not None
        assert tuple(groups) == (2 * sum(lengths[:-1]), 2 * touched)
        assert await conn.fetchval("SELECT sum(active_ms)::bigint FROM media_hour") == sum(lengths[:-1])
    assert await differences(pool) == []
    async with pool.acquire() as conn, pool.acquire() as writer:
        await writer.execute("UPDATE usage_hour SET participant_ms = 1 WHERE hour % 7200000 = 0")
        await writer.execute("DELETE FROM usage_group WHERE day % 172800000 = 0")
        assert [found async for found in rebuild(conn, writer, None, Checked(), NOW_MS, lambda _: None)]
    assert await differences(pool) == []


async def test_stored_times_out_of_bounds_stop_neither_fold_nor_rebuild(pool: Pool, project: CreatedProject) -> None:
    """Versions without bounds stored such times in a state, and in the kept event that it came from."""
    where = room(livekit_room(project.project_id, "live", "lobby"))
    joined = body(
        "participant_joined", "EV_1", NOW_S - 50, room=where, participant=participant("PA_1", "ada", NOW_MS - 50_000)
    )
    ended = body("room_finished", "EV_2", NOW_S, room=where)
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, [Received(NOW_MS, joined)])
        state = (
            (await conn.fetchval("SELECT state FROM session"))
            .replace(b'"sighted_ms":null', b'"sighted_ms":9000000000000000')
            .replace(b'"gone_ms":null', b'"gone_ms":9000000000000001')
        )
        await conn.execute("UPDATE session SET state = $1", state)
        assert await fold_batch(conn, 0, [Received(NOW_MS, ended)]) == FoldResult(folded=1)
    assert await differences(pool)
    async with pool.acquire() as conn, pool.acquire() as writer:
        assert [found async for found in rebuild(conn, writer, None, Checked(), NOW_MS, lambda _: None)]
    assert await differences(pool) == []
