"""Events that were set aside are listed, replayed through the inbox, and dismissed."""

import asyncio
from typing import Any

import pytest

from services.worker.drain import drain_inbox
from shared.errors import SetAsideEventNotFound
from shared.events import set_aside
from shared.events.queries import set_aside as queries
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.settings import Settings
from shared.ledger.fold import fold_batch
from shared.models.projects import CreatedProject
from shared.models.received import Received
from tests.integration.test_cli import relay, relay_json
from tests.livekit_bodies import BASE_S, body, meeting, participant, room

HOUR_MS = 3_600_000
EARLY_MS = (BASE_S - 7200) * 1000


async def set_some_aside(conn: Connection, project: CreatedProject, junk: int = 3) -> None:
    """Set aside a meeting and bodies that will never be events.

    A clock that is two hours behind takes the meeting for a future one.
    """
    name = livekit_room(project.project_id, "live", "lobby")
    bodies = [*meeting(name, seconds=60), *(b"junk %d" % number for number in range(junk))]
    await fold_batch(conn, 0, [Received(EARLY_MS, one) for one in bodies])


async def replay_all(conn: Connection, now_ms: int, reason: str | None = None, at_once: int = set_aside.CHUNK) -> int:
    async with conn.transaction():
        return await set_aside.replay_all(conn, now_ms, reason, at_once=at_once)


async def test_a_replay_folds_what_it_can_and_sets_the_rest_aside_again(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await set_some_aside(conn, project)
        assert await queries.count_set_aside(conn) == {"from_the_future": 8, "not_an_event": 3}
        before = {event.id for event in await queries.page_of_set_aside(conn)}
        assert await replay_all(conn, BASE_S * 1000 + HOUR_MS) == 11
        assert await queries.count_set_aside(conn) == {}
        assert await drain_inbox(conn) == 11
        assert await queries.count_set_aside(conn) == {"not_an_event": 3}
        again = await queries.page_of_set_aside(conn)
        assert {event.body for event in again} == {b"junk 0", b"junk 1", b"junk 2"}
        assert before.isdisjoint(event.id for event in again)
        assert await conn.fetchval("SELECT sum(participant_ms) FROM usage_hour") > 0


async def test_a_replay_of_one_reason_leaves_the_others(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await set_some_aside(conn, project)
        assert await replay_all(conn, BASE_S * 1000 + HOUR_MS, "from_the_future") == 8
        assert await queries.count_set_aside(conn) == {"not_an_event": 3}
        assert await replay_all(conn, BASE_S * 1000 + HOUR_MS, "no_such_reason") == 0


async def test_a_replay_of_several_chunks_takes_each_event_once(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await set_some_aside(conn, project, junk=7)
        assert await replay_all(conn, BASE_S * 1000 + HOUR_MS, at_once=4) == 15
        await drain_inbox(conn)
        assert await queries.count_set_aside(conn) == {"not_an_event": 7}
        ids = [event.id for event in await queries.page_of_set_aside(conn)]
        async with conn.transaction():
            await set_aside.replay(conn, [*ids, *ids], BASE_S * 1000, at_once=4)
        assert await conn.fetchval("SELECT count(*) FROM webhook_inbox") == 7


async def test_an_unknown_id_changes_nothing(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await set_some_aside(conn, project)
        known = (await queries.page_of_set_aside(conn))[0].id
        for act in (set_aside.dismiss(conn, [known, 10**12]), set_aside.replay(conn, [known, 10**12], BASE_S * 1000)):
            with pytest.raises(SetAsideEventNotFound):
                async with conn.transaction():
                    await act
        assert sum((await queries.count_set_aside(conn)).values()) == 11
        assert await conn.fetchval("SELECT count(*) FROM webhook_inbox") == 0


async def test_concurrent_replays_queue_each_event_once(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn, pool.acquire() as other:
        await set_some_aside(conn, project)
        counts = await asyncio.gather(replay_all(conn, BASE_S * 1000), replay_all(other, BASE_S * 1000))
        assert sum(counts) == 11
        assert await conn.fetchval("SELECT count(*) FROM webhook_inbox") == 11


async def test_pages_are_stable_while_events_arrive(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await set_some_aside(conn, project)
        first = await queries.page_of_set_aside(conn, limit=5)
        ada = participant("PA_late", "ada", BASE_S * 1000)
        name = livekit_room(project.project_id, "live", "lobby")
        late = body("participant_left", "EV_late", BASE_S - 3600, room=room(name), participant=ada)
        await fold_batch(conn, 0, [Received(BASE_S * 1000, late)])
        second = await queries.page_of_set_aside(conn, before_id=first[-1].id, limit=50)
        ids = [event.id for event in (*first, *second)]
        assert ids == sorted(ids, reverse=True)
        assert len(ids) == len(set(ids)) == 11
        assert [e.reason for e in await queries.page_of_set_aside(conn, reason="end_before_start")] == [
            "end_before_start"
        ]


async def test_commands_list_replay_and_dismiss_events(settings: Settings, pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        await set_some_aside(conn, project)
    listed: Any = relay_json(settings, "events", "set-aside", "--limit", "10")
    assert listed["counts"] == {"from_the_future": 8, "not_an_event": 3}
    assert len(listed["events"]) == 10
    rest = relay_json(settings, "events", "set-aside", "--before", str(listed["nextBefore"]))
    assert (len(rest["events"]), rest["nextBefore"]) == (1, None)
    text = relay(settings, "events", "set-aside", "--reason", "not_an_event", "--bodies").stdout
    assert "junk 2" in text
    assert relay_json(settings, "events", "dismiss", str(listed["events"][0]["id"])) == {"dismissed": 1}
    assert relay_json(settings, "events", "replay", str(listed["events"][1]["id"])) == {"replayed": 1}
    assert relay_json(settings, "events", "replay", "--reason", "from_the_future") == {"replayed": 8}
    assert relay_json(settings, "events", "replay", "--all") == {"replayed": 1}
    assert "No event is set aside" in relay(settings, "events", "set-aside").stdout
    for wrong in (
        ["replay"],
        ["replay", "1", "--all"],
        ["replay", "99999999"],
        ["dismiss", "0"],
        ["dismiss", "9" * 30],
    ):
        done = relay(settings, "events", *wrong)
        assert done.returncode in (1, 2), done.stdout
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
