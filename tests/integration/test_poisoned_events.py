"""Malformed events and damaged session states are set aside, and all others are metered."""

import random
import string
from collections.abc import Callable
from typing import Any

import pytest

from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis.event_stream import partition_of
from shared.ledger.fold import FoldResult, fold_batch
from shared.ledger.proof import Checked
from shared.ledger.verify import verify
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.models.scope import Scope
from tests.integration.test_fold import DAY, RECEIVED_MS, received, usage
from tests.livekit_bodies import BASE_S, body, meeting, meeting_usage, participant, room
from tests.stored_usage import DayUsage, usage_by_day

# Incompressible text: Postgres compresses what goes into an index.
LONG = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=12_000))
Room = dict[str, Any]


def _left(rm: Room, identity: str = "eve", event_id: str = "EV_p", **more: Any) -> bytes:
    who = participant("PA_p", identity, BASE_S * 1000 - 1000, **more)
    return body("participant_left", event_id, BASE_S, room=rm, participant=who)


POISON: dict[str, Callable[[Room], bytes]] = {
    "an identity that no index takes": lambda rm: _left(rm, LONG),
    "a room name that no index takes": lambda rm: _left({**rm, "name": rm["name"] + LONG}),
    "a kind that no index takes": lambda rm: _left(rm, kind=LONG),
    "an id that no index takes": lambda rm: _left(rm, event_id="EV_" + LONG),
    "a NUL": lambda rm: _left(rm, "e\0ve"),
    "half a surrogate pair": lambda rm: _left(rm, "\ud800"),
    "a number without end": lambda rm: b'{"event":"participant_left","id":"EV_p","createdAt":"' + b"9" * 5000 + b'"}',
    "a joining time at the edge": lambda rm: body(
        "participant_left", "EV_p", BASE_S, room=rm, participant=participant("PA_p", "eve", 2**63 - 1)
    ),
    "a nesting without end": lambda rm: b'{"event":"x","createdAt":"1","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a nesting where anything may be": lambda rm: (
        b'{"event":"egress_started","createdAt":"1","egressInfo":{"web":{"a":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}}"
    ),
}


async def _differences(pool: Pool) -> list[object]:
    async with pool.acquire() as conn:
        return [found.difference async for found in verify(conn, None, Checked(), lambda _: None)]


@pytest.mark.parametrize("what", POISON)
async def test_an_unstorable_event_does_not_stop_the_others(pool: Pool, project: CreatedProject, what: str) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    poisoned, good = POISON[what](room(name)), meeting(name)
    assert 0 <= partition_of(poisoned) < 16
    async with pool.acquire() as conn:
        result = await fold_batch(conn, 0, received([*good[:4], poisoned, *good[4:]]))
        assert result == FoldResult(folded=8, set_aside=1)
        assert await conn.fetchval("SELECT body FROM set_aside_event") == poisoned
    assert await usage(pool, project.project_id) == DayUsage(*meeting_usage())
    assert await _differences(pool) == []


async def test_an_unreadable_stored_state_affects_only_its_session(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    good = meeting(name)
    async with pool.acquire() as conn:
        await fold_batch(conn, 0, received(good[:2]))
        await conn.execute("UPDATE session SET state = 'not a state' WHERE sid = 'PA_a1'")
        # Set aside: camera on, camera off and leave of the first participant, and the end of the room,
        # where she still seems to be.
        assert await fold_batch(conn, 0, received(good[2:])) == FoldResult(folded=2, set_aside=4)
        rows = await conn.fetch("SELECT DISTINCT reason FROM set_aside_event")
    assert [row["reason"] for row in rows] == ["not_foldable"]
    assert await usage(pool, project.project_id) == DayUsage(299_500, 0)


@pytest.mark.parametrize("created_s", [-62_135_596_800, 1, 10**15, BASE_S + 86_400])
async def test_a_room_with_an_impossible_creation_time_supersedes_no_other(
    pool: Pool, project: CreatedProject, created_s: int
) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    ada, bob = (participant(f"PA_{who}", who, (BASE_S + 1) * 1000) for who in ("ada", "bob"))
    strange = {**room(name, "RM_2"), "creationTime": str(created_s)}
    async with pool.acquire() as conn:
        await fold_batch(
            conn, 0, received([body("participant_joined", "EV_1", BASE_S + 1, room=room(name), participant=ada)])
        )
        await conn.execute("UPDATE session SET confirmed_ms = $1", (BASE_S + 50) * 1000)
        joined = body("participant_joined", "EV_2", BASE_S + 60, room=strange, participant=bob)
        assert await fold_batch(conn, 0, received([joined])) == FoldResult(folded=1)
        left = body("participant_left", "EV_3", BASE_S + 101, room=room(name), participant=ada)
        assert await conn.fetchval("SELECT count(*) FROM session WHERE ended_ms IS NULL") == 2
        await fold_batch(conn, 0, received([left]))
    assert await usage(pool, project.project_id) == DayUsage(100_000, 0)
    assert await _differences(pool) == []


@pytest.mark.parametrize("together", [True, False])
async def test_a_repeated_event_id_with_another_time_is_another_event(
    pool: Pool, project: CreatedProject, together: bool
) -> None:
    """The result does not depend on how events are split into batches."""
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_ada", "ada", BASE_S * 1000)
    bodies = [
        body("participant_joined", "EV_1", BASE_S, room=room(name), participant=ada),
        body("participant_left", "EV_1", BASE_S + 100, room=room(name), participant=ada),
    ]
    async with pool.acquire() as conn:
        for batch in [bodies] if together else [[one] for one in bodies]:
            await fold_batch(conn, 0, [Received(RECEIVED_MS, one) for one in batch])
        days = await usage_by_day(conn, Scope(project.project_id, "live"), DAY, DAY + 1)
    assert days[DAY] == DayUsage(100_000, 0)
    assert await _differences(pool) == []
