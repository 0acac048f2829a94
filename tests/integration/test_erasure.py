"""Erasing one identity removes its personal data and keeps every total."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.data import describe, erase_stored
from services.cli.projects import create_project
from shared.errors import ProjectNotFound
from shared.events.queries import events as event_queries
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.settings import Settings
from shared.ledger.erasure import PSEUDONYM_PREFIX, IdentityConnected, erase_identity, without_person
from shared.ledger.fold import fold_batch
from shared.ledger.proof import Checked
from shared.ledger.verify import verify
from shared.metering.state import Session, merge_session
from shared.models.received import Received
from tests.integration.test_volume import metered, traffic_for
from tests.livekit_bodies import body

PERSON = b"Ada Lovelace, ada@example.com"


async def totals(pool: Pool, owners: list[tuple[str, str]]) -> Any:
    async with pool.acquire() as conn:
        groups = await conn.fetch(
            "SELECT dimension, day, count(*), sum(participant_ms), sum(video_ms), sum(sessions) FROM usage_group"
            " GROUP BY 1, 2 ORDER BY 1, 2"
        )
        names = await conn.fetch("SELECT * FROM usage_group_count ORDER BY 1, 2, 3, 4")
        distinct = await conn.fetchrow(
            "SELECT count(DISTINCT (project_id, identity)), count(*), count(DISTINCT id) FROM event"
        )
    return await metered(pool, owners), list(map(tuple, groups)), list(map(tuple, names)), tuple(distinct or ())


async def folded(pool: Pool, bodies: list[bytes]) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with pool.acquire() as conn, event_queries.partition_reader(conn, 0):
        await fold_batch(conn, 0, [Received(now_ms, each) for each in bodies])


async def test_erasure_removes_the_person_and_keeps_totals(settings: Settings, pool: Pool) -> None:
    owners = [((await create_project(settings.database, name)).project_id, name) for name in ("one", "two")]
    traffic = traffic_for(owners, time.time_ns() // 1_000_000, "--events", "600", "--rooms", "6", "--people", "5")
    await folded(pool, [event.body.replace(b'"name":"Ada"', b'"name":"' + PERSON + b'"') for event in traffic.events])
    before, project_id = await totals(pool, owners), owners[0][0]
    async with pool.acquire() as conn, conn.transaction():
        erased = await erase_identity(conn, project_id, "ada")
    assert erased.sessions > 0
    assert erased.events > erased.sessions
    assert await totals(pool, owners) == before
    async with pool.acquire() as conn:
        assert (
            await conn.fetchval("SELECT count(*) FROM event WHERE identity = 'ada' AND project_id = $1", project_id)
            == 0
        )
        for row in await conn.fetch("SELECT body FROM event WHERE project_id = $1", project_id):
            assert b'"ada"' not in row["body"]
            assert PERSON not in row["body"]
        # The identity `ada` of another project is another person.
        assert await conn.fetchval(
            "SELECT count(*) FROM session WHERE identity = 'ada' AND project_id = $1", owners[1][0]
        )
        assert (
            await conn.fetchval("SELECT count(*) FROM session WHERE identity = $1", erased.pseudonym) == erased.sessions
        )
        assert await conn.fetchval("SELECT count(*) FROM usage_group WHERE name = $1", erased.pseudonym)


async def test_a_late_event_does_not_restore_an_erased_identity(pool: Pool, settings: Settings) -> None:
    project_id = (await create_project(settings.database, "one")).project_id
    room = {"sid": "RM_1", "name": livekit_room(project_id, "live", "lobby")}
    at_s = time.time_ns() // 1_000_000_000 - 600
    who = {"sid": "PA_1", "identity": "zoe@home", "name": "Zoe", "joinedAtMs": str(at_s * 1000)}
    joined = body("participant_joined", "EV_1", at_s, room=room, participant=who)
    left = body("participant_left", "EV_2", at_s + 60, room=room, participant=who)
    await folded(pool, [joined])
    async with pool.acquire() as conn, conn.transaction():
        with pytest.raises(IdentityConnected, match="1 open sessions"):
            await erase_identity(conn, project_id, "zoe@home")
    await folded(pool, [left])
    async with pool.acquire() as conn, conn.transaction():
        erased = await erase_identity(conn, project_id, "zoe@home")
    late = body(
        "track_published", "EV_3", at_s + 30, room=room, participant=who, track={"sid": "TR_1", "type": "VIDEO"}
    )
    await folded(pool, [late, left])
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT identity FROM session") == erased.pseudonym


async def differences(pool: Pool) -> list[object]:
    async with pool.acquire() as conn:
        return [found.difference async for found in verify(conn, None, Checked(), lambda _: None)]


async def test_late_events_of_an_erased_session_are_erased_next_time(pool: Pool, settings: Settings) -> None:
    """The late events get the pseudonym that their session already has.

    With a second pseudonym, the kept events would prove another identity than the session has.
    """
    project_id = (await create_project(settings.database, "one")).project_id
    room = {"sid": "RM_1", "name": livekit_room(project_id, "live", "lobby")}
    at_s = time.time_ns() // 1_000_000_000 - 600
    for number in range(12):  # the order of two random pseudonyms must not matter
        who = {"sid": f"PA_{number}", "identity": "zoe@home", "name": "Zoe", "joinedAtMs": str(at_s * 1000)}
        track = {"sid": f"TR_{number}", "type": "VIDEO"}
        left = body("participant_left", f"EV_{number}", at_s + 60, room=room, participant=who)
        roomless = body("track_published", f"EV_{number}r", at_s + 5, participant=who, track=track)
        late = body("track_unpublished", f"EV_{number}l", at_s + 30, room=room, participant=who, track=track)
        await folded(pool, [roomless, left])
        async with pool.acquire() as conn, conn.transaction():
            assert (await erase_identity(conn, project_id, "zoe@home")).sessions == 1
        await folded(pool, [late])
    async with pool.acquire() as conn, conn.transaction():
        assert (await erase_identity(conn, project_id, "zoe@home")).sessions == 0
        bodies = [row["body"] for row in await conn.fetch("SELECT body FROM event")]
        assert await conn.fetchval("SELECT count(*) FROM event WHERE identity = 'zoe@home'") == 0
        assert await conn.fetchval("SELECT count(*) FROM usage_group WHERE name = 'zoe@home'") == 0
    assert not [one for one in bodies if b"zoe@home" in one or b"Zoe" in one]
    assert await differences(pool) == []


async def test_a_late_display_name_is_erased_next_time(pool: Pool, settings: Settings) -> None:
    """The session already has its pseudonym, but the late event contains the display name.

    An event without its room belongs to no project.
    """
    project_id = (await create_project(settings.database, "one")).project_id
    room = {"sid": "RM_1", "name": livekit_room(project_id, "live", "lobby")}
    at_s = time.time_ns() // 1_000_000_000 - 600
    who = {"sid": "PA_1", "identity": "zoe@home", "name": "Zoe", "joinedAtMs": str(at_s * 1000)}
    await folded(pool, [body("participant_left", "EV_1", at_s + 60, room=room, participant=who)])
    async with pool.acquire() as conn, conn.transaction():
        erased = await erase_identity(conn, project_id, "zoe@home")
    track = {"sid": "TR_1", "type": "VIDEO"}
    joined = body("participant_joined", "EV_0", at_s, room=room, participant=who)
    await folded(pool, [joined, body("track_published", "EV_2", at_s, participant=who, track=track)])
    async with pool.acquire() as conn, conn.transaction():
        again = await erase_identity(conn, project_id, "zoe@home")
        row = await conn.fetchrow("SELECT identity, state FROM session")
        bodies = [row["body"] for row in await conn.fetch("SELECT body FROM event")]
    assert (again.sessions, again.events) == (0, 2)
    assert not [one for one in bodies if b"zoe@home" in one or b"Zoe" in one]
    assert row is not None
    assert row["identity"] == erased.pseudonym
    assert b"Zoe" not in row["state"]
    assert await differences(pool) == []


async def test_a_session_folded_during_erasure_has_one_name(pool: Pool, settings: Settings) -> None:
    """The fold does not wait for an erasure.

    A session, its events and its usage must be renamed together or not at all.
    """
    project_id = (await create_project(settings.database, "one")).project_id
    room = {"sid": "RM_1", "name": livekit_room(project_id, "live", "lobby")}
    at_s = time.time_ns() // 1_000_000_000 - 6000
    erased = 0

    async def come_and_go(partition: int) -> None:
        for number in range(40):
            sid = f"PA_{partition}_{number}"
            who = {"sid": sid, "identity": "zoe@home", "joinedAtMs": str(at_s * 1000 + number)}
            left = body("participant_left", f"EV_{sid}", at_s + 60 + number, room=room, participant=who)
            async with pool.acquire() as conn:
                await fold_batch(conn, partition, [Received((at_s + 200) * 1000, left)])

    async def erase() -> None:
        nonlocal erased
        while not coming.done():
            async with pool.acquire() as conn, conn.transaction():
                erased += (await erase_identity(conn, project_id, "zoe@home")).sessions

    coming = asyncio.gather(*(come_and_go(partition) for partition in range(4)))
    await asyncio.gather(coming, erase())
    assert erased > 0
    assert await differences(pool) == []


async def test_erasing_an_empty_identity_changes_nothing(pool: Pool, settings: Settings) -> None:
    project_id = (await create_project(settings.database, "one")).project_id
    room = {"sid": "RM_1", "name": livekit_room(project_id, "live", "lobby")}
    at_s = time.time_ns() // 1_000_000_000 - 600
    who = {"sid": "PA_1", "identity": "", "joinedAtMs": str(at_s * 1000)}
    await folded(pool, [body("participant_left", "EV_1", at_s + 60, room=room, participant=who)])
    async with pool.acquire() as conn, conn.transaction():
        assert (await erase_identity(conn, project_id, "")).events == 0
    assert await differences(pool) == []


async def test_set_aside_events_are_erased_too(pool: Pool, settings: Settings) -> None:
    project_id = (await create_project(settings.database, "one")).project_id
    name = livekit_room(project_id, "live", "lobby").encode()
    bodies = (
        b'{"room":{"name":"%s"},"participant":{"identity":"eve","metadata":"her life"}}' % name,
        b'{"room":{"name":"%s"},"participant":{"identity":"eve"' % name,
        b'{"room":{"name":"elsewhere"},"participant":{"identity":"eve"}}',
    )
    async with pool.acquire() as conn, conn.transaction():
        for each in bodies:
            await event_queries.set_aside(conn, Received(0, each), "not_an_event", "")
        assert (await erase_identity(conn, project_id, "eve")).set_aside == 2
        left = [row["body"] for row in await conn.fetch("SELECT body FROM set_aside_event ORDER BY id")]
    assert len(left) == 2
    assert b'"eve"' not in left[0]
    assert b"her life" not in left[0]
    assert left[1] == bodies[2]


async def test_erasing_an_unknown_identity_changes_nothing(pool: Pool, settings: Settings) -> None:
    project_id = (await create_project(settings.database, "one")).project_id
    async with pool.acquire() as conn, conn.transaction():
        erased = await erase_identity(conn, project_id, "nobody")
    assert (erased.sessions, erased.events, erased.set_aside) == (0, 0, 0)
    assert "nothing stored in this project has the identity 'nobody'" in describe(erased, "nobody")


async def test_erasing_in_an_unknown_project_is_an_error(pool: Pool) -> None:
    async with pool.acquire() as conn, conn.transaction():
        with pytest.raises(ProjectNotFound):
            await erase_identity(conn, "mistyped", "ada")


async def test_a_failed_erasure_changes_nothing(pool: Pool, settings: Settings) -> None:
    """A pseudonym is random: after half an erasure, the next one would create a second pseudonym."""
    project_id = (await create_project(settings.database, "one")).project_id
    room = {"sid": "RM_1", "name": livekit_room(project_id, "live", "lobby")}
    at_s = time.time_ns() // 1_000_000_000 - 600
    who = {"sid": "PA_1", "identity": "zoe@home", "name": "Zoe", "joinedAtMs": str(at_s * 1000)}
    await folded(pool, [body("participant_left", "EV_1", at_s + 60, room=room, participant=who)])
    async with pool.acquire() as conn:
        await conn.execute("ALTER TABLE usage_group RENAME TO elsewhere")
        with pytest.raises(asyncpg.UndefinedTableError):
            await erase_stored(settings.database, project_id, "zoe@home")
        await conn.execute("ALTER TABLE elsewhere RENAME TO usage_group")
        assert await conn.fetchval("SELECT identity FROM session") == "zoe@home"
        assert b"Zoe" in await conn.fetchval("SELECT body FROM event")


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(names, names)
def test_a_merge_prefers_the_pseudonym_to_a_plain_identity(identity: str, other: str) -> None:
    if identity > "~" or other > "~":  # beyond ASCII a name may still be greater
        return
    erased = Session(sid="PA_1", identity=PSEUDONYM_PREFIX + "0")
    assert merge_session(erased, Session(sid="PA_1", identity=identity)).identity == erased.identity


def test_only_the_persons_fields_of_a_body_are_erased() -> None:
    given_body = (
        b'{"event":"egress_ended","egressInfo":{"participant":{"identity":"ann","name":"Ann"},"roomName":"r","error":"ann"},'
        b'"participant":{"identity":"bob","name":"Bob"},"new":[{"participantIdentity":"ann","participantName":"Ann"}]}'
    )
    assert without_person(given_body, "ann", "~x") == (
        b'{"event":"egress_ended","egressInfo":{"participant":{"identity":"~x"},"roomName":"r","error":"ann"},'
        b'"participant":{"identity":"bob","name":"Bob"},"new":[{"participantIdentity":"~x"}]}'
    )
    assert without_person(b"\xff", "ann", "~x") is None
