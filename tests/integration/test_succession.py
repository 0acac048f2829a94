"""A newer room of the same name ends the sessions of the older room (scenario 16).

They end at their last sign of life, in any order of events.
"""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis.event_stream import partition_of
from shared.ledger.fold import fold_batch
from shared.ledger.proof import Checked
from shared.ledger.verify import verify
from shared.metering.observe import observe
from shared.models.livekit_event import decode_kept_event
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests import livekit_bodies as bodies

T = bodies.BASE_S
Session = tuple[int | None, int | None, str | None]


async def fold(pool: Pool, *batches: list[bytes]) -> None:
    async with pool.acquire() as conn:
        for batch in batches:
            by_partition: dict[int, list[Received]] = {}
            for body in batch:
                by_partition.setdefault(partition_of(body), []).append(Received((T + 90_000) * 1000, body))
            for partition, received in by_partition.items():
                await fold_batch(conn, partition, received)


async def sessions(pool: Pool) -> dict[str, Session]:
    """Return (start, end, ended by) by sid, in seconds after T."""
    async with pool.acquire() as conn:
        rows = await conn.fetch("SELECT sid, started_ms, ended_ms, ended_by FROM session ORDER BY sid")
    return {row["sid"]: (_since(row["started_ms"]), _since(row["ended_ms"]), row["ended_by"]) for row in rows}


def _since(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000 - T


def joined(name: str, number: int, at_s: int) -> bytes:
    room = bodies.room(name, f"RM_{number}", at_s)
    who = bodies.participant(f"PA_{number}", "ada", at_s * 1000)
    return bodies.body("participant_joined", f"EV_j{number}", at_s + 1, room=room, participant=who)


def published(name: str, number: int, at_s: int) -> bytes:
    parts: dict[str, Any] = {
        "room": {"sid": f"RM_{number}", "name": name},
        "participant": {"sid": f"PA_{number}", "identity": "ada"},
        "track": {"sid": f"TR_{number}", "type": "VIDEO"},
    }
    return bodies.body("track_published", f"EV_t{number}", at_s, **parts)


@pytest.fixture(autouse=True)
async def proven(pool: Pool) -> AsyncIterator[None]:
    """Verify that the kept events prove the result, whatever their order was."""
    yield
    async with pool.acquire() as conn:
        assert [wrong.difference async for wrong in verify(conn, None, Checked(), lambda _: None)] == []


async def rollup(pool: Pool) -> tuple[int, ...]:
    async with pool.acquire() as conn:
        row = await conn.fetchrow(
            "SELECT sum(participant_ms)::bigint, sum(video_ms)::bigint, sum(inferred_ms)::bigint FROM usage_hour"
        )
    return tuple(row or ())


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_older_rooms_end_at_their_last_sign_in_any_order_of_events(
    pool: Pool, project: CreatedProject, order: tuple[int, ...]
) -> None:
    """LiveKit crashed in a call: no `left`, no `room_finished`.

    The next morning the room is created under a new sid.
    """
    name = livekit_room(project.project_id, "live", "lobby")
    events = [joined(name, 1, T), published(name, 1, T + 600), joined(name, 2, T + 30_000), joined(name, 3, T + 60_000)]
    await fold(pool, *([events[index]] for index in order))
    assert await sessions(pool) == {
        "PA_1": (0, 600, "reconciled"),
        "PA_2": (30_000, 30_001, "reconciled"),
        "PA_3": (60_000, None, None),
    }
    assert await rollup(pool) == (601_000, 0, 601_000)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_rooms_created_in_the_same_second_end_together(
    pool: Pool, project: CreatedProject, order: tuple[int, ...]
) -> None:
    """Two rooms of one name created in the same second end together.

    LiveKit may report whole seconds only, so a room that is deleted and created again within one has the same creation time.
    Their order is unknown, but both had ended when the next one was created, and neither ended when a later one was.
    """
    name = livekit_room(project.project_id, "live", "lobby")
    created = [T, T, T + 500, T + 900]
    await fold(pool, *[[joined(name, number, created[number])] for number in order])
    async with pool.acquire() as conn:
        rows = await conn.fetch("SELECT sid, superseded_ms FROM room")
    assert {row["sid"]: _since(row["superseded_ms"]) for row in rows} == {
        "RM_0": 500,
        "RM_1": 500,
        "RM_2": 900,
        "RM_3": None,
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_an_event_without_the_rooms_name_is_ignored(
    pool: Pool, project: CreatedProject, order: tuple[int, ...]
) -> None:
    """LiveKit always sends the name.

    If not, it must not matter whether the named room was known when the next one was created.
    """
    name = livekit_room(project.project_id, "live", "lobby")
    unnamed = {"sid": "RM_1", "creationTime": str(T)}
    events = [bodies.body("room_started", "EV_u", T, room=unnamed), joined(name, 1, T), joined(name, 2, T + 30_000)]
    await fold(pool, *([events[index]] for index in order))
    assert (await sessions(pool))["PA_1"] == (0, 1, "reconciled")


async def test_a_creation_time_later_than_its_event_is_ignored(pool: Pool, project: CreatedProject) -> None:
    """A creation time that is seconds after its event is ignored.

    The clocks of LiveKit's nodes differ.
    """
    name = livekit_room(project.project_id, "live", "lobby")
    early = bodies.body("room_started", "EV_e", T + 29_000, room=bodies.room(name, "RM_2", T + 30_000))
    await fold(pool, [joined(name, 2, T + 30_000)], [early, joined(name, 1, T)])
    assert (await sessions(pool))["PA_1"] == (0, 1, "reconciled")


async def test_events_in_one_batch_and_repeated_give_the_same_end(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    events = [joined(name, 2, T + 30_000), joined(name, 1, T), published(name, 1, T + 600)]
    await fold(pool, events, events, events[::-1])
    assert (await sessions(pool))["PA_1"] == (0, 600, "reconciled")
    assert await rollup(pool) == (600_000, 0, 600_000)


async def test_the_last_confirmation_counts_and_is_kept_as_an_event(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    await fold(pool, [joined(name, 1, T)])
    async with pool.acquire() as conn:
        await conn.execute("UPDATE session SET confirmed_ms = $1", (T + 7200) * 1000)
    await fold(pool, [joined(name, 2, T + 30_000)])
    assert (await sessions(pool))["PA_1"] == (0, 7200, "reconciled")
    async with pool.acquire() as conn:
        kept = await conn.fetch("SELECT body FROM event WHERE name = 'relay_participant_gone'")
    # The kept events alone give the same result, so it can be proven.
    assert len(kept) == 1
    seen = observe(decode_kept_event(kept[0]["body"]), (T + 30_001) * 1000).session
    assert seen is not None
    assert (seen.sid, seen.sighted_ms, seen.gone_ms) == ("PA_1", (T + 7200) * 1000, None)


async def test_a_real_leave_overrides_the_inferred_end(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    await fold(pool, [joined(name, 1, T)], [joined(name, 2, T + 30_000)])
    who = bodies.participant("PA_1", "ada", T * 1000)
    left = bodies.body("participant_left", "EV_l", T + 900, room=bodies.room(name, "RM_1", T), participant=who)
    await fold(pool, [left])
    assert (await sessions(pool))["PA_1"] == (0, 900, "left")
    assert await rollup(pool) == (900_000, 0, 0)


async def test_other_rooms_other_modes_and_the_same_sid_end_no_session(pool: Pool, project: CreatedProject) -> None:
    name = livekit_room(project.project_id, "live", "lobby")
    await fold(pool, [joined(name, 1, T)])
    await fold(pool, [joined(livekit_room(project.project_id, "live", "lobby2"), 2, T + 30_000)])
    await fold(pool, [joined(livekit_room(project.project_id, "test", "lobby"), 3, T + 30_000)])
    room = bodies.room(name, "RM_1", T)
    await fold(pool, [bodies.body("room_started", "EV_again", T + 30_000, room=room)])
    assert {end for _, end, _ in (await sessions(pool)).values()} == {None}
