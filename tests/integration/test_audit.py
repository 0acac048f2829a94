"""`relay usage verify` finds every wrong row and `relay usage rebuild` corrects it.

Both run while events are folded.
"""

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest

from services.cli.projects import create_project
from services.cli.usage.audit import span_of
from services.local.embedded import EmbeddedServers
from services.worker.partitions import keep_partitions
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.ids import Mode, livekit_room
from shared.infra.postgres.pool import Connection, Pool, create_pool, remember_times
from shared.infra.settings import Settings
from shared.ledger.difference import Difference
from shared.ledger.fold import fold_batch
from shared.ledger.proof import Checked
from shared.ledger.rebuild import rebuild
from shared.ledger.verify import verify
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.models.scope import DayRange
from tests.conftest import fresh_database, settings_for
from tests.integration.test_cli import relay, relay_json
from tests.livekit_bodies import BASE_S, body, meeting, participant, room

DAY = floor_to(BASE_S * 1000, DAY_MS)
NOW_MS = BASE_S * 1000 + DAY_MS
EGRESS = {"egressId": "EG_1", "startedAt": str(BASE_S * 10**9), "endedAt": str((BASE_S + 5000) * 10**9), "track": {}}


# Rollups, and how many of their last columns are amounts. A row with only zeros counts as missing.
ROLLUPS = {"usage_hour": 5, "usage_day": 5, "usage_group": 6, "usage_group_count": 1, "media_hour": 3, "concurrency": 2}


async def find(conn: Connection, span: DayRange | None = None, checked: Checked | None = None) -> list[Difference]:
    return [
        found.difference async for found in verify(conn, span, checked if checked is not None else Checked(), _nothing)
    ]


async def correct(conn: Connection, writer: Connection, span: DayRange | None = None) -> list[Difference]:
    return [found.difference async for found in rebuild(conn, writer, span, Checked(), NOW_MS, _nothing)]


def _nothing(_: object) -> None:
    pass


async def fold(conn: Connection, bodies: list[bytes], received_ms: int = NOW_MS) -> None:
    for own in (False, True):
        part = [Received(received_ms, one) for one in bodies if (b'"relay_' in one) == own]
        await fold_batch(conn, 0, part, own=own)


async def some_history(conn: Connection, project: CreatedProject) -> None:
    """Fold meetings of both modes, over midnight and still open, egresses, and reconciliation events."""
    modes: tuple[Mode, ...] = ("live", "test")
    for mode in modes:
        name = livekit_room(project.project_id, mode, "lobby")
        await fold(conn, meeting(name, tag=f"{mode}a", seconds=60_000))
        await fold(conn, meeting(name, tag=f"{mode}b", start_s=BASE_S + 7, seconds=90))
    name = livekit_room(project.project_id, "live", "open")
    who = {"sid": "PA_open", "identity": "open"}
    await fold(
        conn,
        [
            body(
                "participant_joined",
                "EV_o1",
                BASE_S,
                room=room(name, "RM_o"),
                participant=participant("PA_open", "open", BASE_S * 1000),
            ),
            # LiveKit 1.9.0 sends no room in a track event.
            body("track_published", "EV_o2", BASE_S + 5, participant=who, track={"sid": "TR_o", "type": "VIDEO"}),
            body(
                "participant_joined",
                "EV_o3",
                BASE_S,
                room=room(name, "RM_o"),
                participant=participant("PA_lost", "lost", BASE_S * 1000),
            ),
            body(
                "relay_participant_gone",
                "EV_o4",
                BASE_S + 300,
                room=room(name, "RM_o"),
                participant={"sid": "PA_lost", "identity": "lost"},
                relay={"seenMs": (BASE_S + 200) * 1000, "goneMs": (BASE_S + 300) * 1000},
            ),
            body("egress_ended", "EV_o5", BASE_S + 5000, egressInfo={**EGRESS, "roomName": name}),
            body("egress_ended", "EV_o6", BASE_S + 5000, egressInfo={**EGRESS, "egressId": "EG_web", "roomName": ""}),
            body(
                "track_published",
                "EV_o7",
                BASE_S,
                participant={"sid": "PA_nobody", "identity": "x"},
                track={"sid": "TR_n"},
            ),
        ],
    )


@pytest.fixture(scope="module")
async def folded(servers: EmbeddedServers, migrated_template: str) -> AsyncIterator[str]:
    """The name of a database with a project and its history, to be copied for each test."""
    with fresh_database(servers, migrated_template) as database:
        project = await create_project(database, "acme")
        async with create_pool(database, "tests", init=remember_times) as pool, pool.acquire() as conn:
            await some_history(conn, project)
            name = await conn.fetchval("SELECT current_database()")
        yield str(name)


@pytest.fixture
def with_history(servers: EmbeddedServers, folded: str, redis_url: str) -> Iterator[Settings]:
    with fresh_database(servers, folded) as database:
        yield settings_for(database, redis_url)


@pytest.fixture
async def history(with_history: Settings) -> AsyncIterator[Pool]:
    """A pool of a database with the history."""
    async with create_pool(with_history.database, "tests", init=remember_times) as pool:
        yield pool


@pytest.fixture
async def conn(history: Pool) -> AsyncIterator[Connection]:
    async with history.acquire() as conn:
        yield conn


# Without `revision`, which counts how often a row was written.
_PEAKS = "project_id, mode, length_ms, start_ms, seconds, second_changes, second_peaks, change, peak"


async def everything(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    content = {}
    for table in ("session", "room", "media_run", *ROLLUPS):
        columns = _PEAKS if table == "concurrency" else "*"
        rows = [tuple(row.values()) for row in await conn.fetch(f"SELECT {columns} FROM {table}")]  # noqa: S608 - constants
        content[table] = sorted((row for row in rows if table not in ROLLUPS or any(row[-ROLLUPS[table] :])), key=repr)
    return content


async def test_verify_finds_no_difference_after_folding(conn: Connection) -> None:
    checked = Checked()
    assert await find(conn, checked=checked) == []
    assert (checked.states, checked.unproven) == (8 + 3 + 5 + 2, 0)
    assert checked.rollups > 50
    assert await find(conn, DayRange(DAY, DAY + DAY_MS)) == []
    assert await find(conn, DayRange(DAY + DAY_MS, DAY + 2 * DAY_MS)) == []


CORRUPTIONS = {
    "states of sessions that cannot be read": ("session", "UPDATE session SET state = 'no state'"),
    "states of runs that cannot be read": ("media_run", "UPDATE media_run SET state = '[]'"),
    "a session's state": (
        "session",
        "UPDATE session SET state = replace(convert_from(state, 'UTF8'), $${when}$$, $${later}$$)::bytea"
        " WHERE sid = 'PA_livea1'",
    ),
    "a session's columns": (
        "session",
        "UPDATE session SET started_ms = started_ms - 5000, video_ms = 1 WHERE sid = 'PA_livea1'",
    ),
    "an open session's columns": ("session", "UPDATE session SET ended_ms = started_ms + 1 WHERE sid = 'PA_open'"),
    "a session that is gone": ("session", "DELETE FROM session WHERE sid = 'PA_livea1'"),
    "a session of nobody": ("session", "DELETE FROM session WHERE sid = 'PA_nobody'"),
    "a session from nowhere": (
        "session",
        "INSERT INTO session (sid, project_id, mode, kind, started_ms, ended_ms, state, room_sid)"
        " SELECT 'PA_false', project_id, mode, kind, started_ms, ended_ms,"
        " replace(convert_from(state, 'UTF8'), 'PA_livea1', 'PA_false')::bytea, room_sid FROM session"
        " WHERE sid = 'PA_livea1'",
    ),
    "a session with another project": ("session", "UPDATE session SET project_id = 'other' WHERE sid = 'PA_livea1'"),
    "a room's end": ("room", "UPDATE room SET finished_ms = '{}' WHERE sid = 'RM_livea'"),
    "a room's other end": ("room", "UPDATE room SET finished_ms = ARRAY[created_ms + 60000] WHERE sid = 'RM_o'"),
    "a room's successor": ("room", "UPDATE room SET superseded_ms = NULL"),
    "a room that is gone": ("room", "DELETE FROM room WHERE sid = 'RM_livea'"),
    "a run's state": (
        "media_run",
        "UPDATE media_run SET state = replace(convert_from(state, 'UTF8'), '\"ended_ms\":1795', '\"ended_ms\":1796')::bytea"
        " WHERE id = 'EG_1'",
    ),
    "a run's columns": ("media_run", "UPDATE media_run SET ended_ms = ended_ms + 1 WHERE id = 'EG_1'"),
    "a run that is gone": ("media_run", "DELETE FROM media_run WHERE id = 'EG_web'"),
    "a run from nowhere": (
        "media_run",
        "INSERT INTO media_run (id, meter, inferred, state, project_id, mode)"
        " SELECT 'EG_2', meter, inferred, replace(convert_from(state, 'UTF8'), 'EG_1', 'EG_2')::bytea, project_id, mode"
        " FROM media_run WHERE id = 'EG_1'",
    ),
    "an hour": ("usage_hour", "UPDATE usage_hour SET participant_ms = participant_ms + 1 WHERE mode = 'live'"),
    "hours that are gone": ("usage_hour", "DELETE FROM usage_hour"),
    "an hour from nowhere": (
        "usage_hour",
        "INSERT INTO usage_hour SELECT project_id, mode, hour + 3600000000, kind, 1, 1 FROM usage_hour LIMIT 1",
    ),
    "a day": ("usage_day", "UPDATE usage_day SET sessions = sessions + 1"),
    "a day of a room": ("usage_group", "UPDATE usage_group SET visits = visits + 1 WHERE dimension = 'room'"),
    "a day of an identity": ("usage_group", "DELETE FROM usage_group WHERE dimension = 'identity'"),
    "a number of names": ("usage_group_count", "UPDATE usage_group_count SET names = names + 1"),
    "an hour of egress": (
        "media_hour",
        "UPDATE media_hour SET active_ms = 0 WHERE hour = (SELECT max(hour) FROM media_hour)",
    ),
    "egress that is gone": ("media_hour", "DELETE FROM media_hour"),
    "a minute's peak": ("concurrency", "UPDATE concurrency SET peak = peak + 1 WHERE length_ms = 60000"),
    "a second's peak": (
        "concurrency",
        "UPDATE concurrency SET second_peaks[1] = 7, revision = revision + 1 WHERE length_ms = 60000 AND change <> 0",
    ),
    "seconds that are gone": (
        "concurrency",
        "UPDATE concurrency SET seconds = '{}', revision = revision + 1 WHERE length_ms = 60000 AND change <> 0",
    ),
    "seconds that no minute has": (
        "concurrency",
        "UPDATE concurrency SET seconds = seconds || ARRAY[75, -3]::smallint[], second_changes = second_changes || ARRAY[1, 1],"
        " second_peaks = second_peaks || ARRAY[1, 1], revision = revision + 1 WHERE length_ms = 60000 AND change <> 0",
    ),
    "seconds told twice": (
        "concurrency",
        "UPDATE concurrency SET seconds = seconds || seconds, second_changes = second_changes || second_changes,"
        " second_peaks = second_peaks || second_peaks, revision = revision + 1 WHERE length_ms = 60000 AND change <> 0",
    ),
    "a second that is null": (
        "concurrency",
        "UPDATE concurrency SET seconds[1] = NULL, revision = revision + 1 WHERE length_ms = 60000 AND change <> 0",
    ),
    "seconds without their changes": (
        "concurrency",
        "UPDATE concurrency SET second_changes = NULL, revision = revision + 1 WHERE length_ms = 60000 AND change <> 0",
    ),
    "an hour's peak": ("concurrency", "UPDATE concurrency SET change = change - 1 WHERE length_ms = 3600000"),
    "a day's peak": ("concurrency", "DELETE FROM concurrency WHERE length_ms = 86400000"),
    "a minute from nowhere": (
        "concurrency",
        "INSERT INTO concurrency SELECT project_id, mode, 60000, start_ms - 60000, 1, 1"
        " FROM concurrency WHERE length_ms = 60000 ORDER BY start_ms LIMIT 1",
    ),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
async def test_wrong_rows_are_found_and_corrected(history: Pool, conn: Connection, what: str) -> None:
    table, statement = CORRUPTIONS[what]
    before = await everything(conn)
    joined = BASE_S * 1000 + 250
    statement = statement.replace("{when}", f'"joined_ms":{joined}').replace("{later}", f'"joined_ms":{joined + 777}')
    assert not (await conn.execute(statement)).endswith(" 0")
    assert await everything(conn) != before
    found = await find(conn)
    assert table in {difference.table for difference in found}
    assert all(difference.fields for difference in found)
    async with history.acquire() as writer:
        for _ in range(3):
            if not await correct(conn, writer):
                break
    assert await find(conn) == []
    assert await everything(conn) == before


async def test_verify_and_rebuild_of_a_range_cover_only_its_days(history: Pool, conn: Connection) -> None:
    await conn.execute("UPDATE usage_hour SET video_ms = video_ms + 1")
    days = {difference.key[:10] for difference in await find(conn)}
    assert days == {"2026-11-18", "2026-11-19"}
    second = span_of(DAY + DAY_MS, None)
    assert {difference.key[:10] for difference in await find(conn, second)} == {"2026-11-19"}
    async with history.acquire() as writer:
        await correct(conn, writer, second)
    assert {difference.key[:10] for difference in await find(conn)} == {"2026-11-18"}
    assert await find(conn, second) == []
    await conn.execute("UPDATE session SET video_ms = 1 WHERE sid LIKE 'PA\\_liveb_'")
    assert {one.table for one in await find(conn, span_of(None, DAY))} == {"session", "usage_hour"}


async def test_days_corrected_after_their_end_show_a_late_change(history: Pool, conn: Connection) -> None:
    await conn.execute("DELETE FROM usage_change")
    await conn.execute("UPDATE usage_hour SET participant_ms = participant_ms + 60000 WHERE mode = 'live'")
    wrong = await conn.fetchval("SELECT count(*) FROM usage_hour WHERE mode = 'live' AND hour < $1", DAY + DAY_MS)
    async with history.acquire() as writer:
        await correct(conn, writer)
    assert await conn.fetchval("SELECT sum(participant_ms) FROM usage_change WHERE day = $1", DAY) == -60_000 * wrong


async def test_sessions_older_than_the_kept_events_are_verified_in_part(pool: Pool, project: CreatedProject) -> None:
    old_s = BASE_S - 10 * 86400
    name = livekit_room(project.project_id, "live", "lobby")
    ada = participant("PA_long", "ada", (old_s + 100) * 1000)
    async with pool.acquire() as conn, pool.acquire() as writer:
        await fold(conn, meeting(name, tag="old", start_s=old_s), old_s * 1000 + DAY_MS)
        await fold(
            conn,
            [body("participant_joined", "EV_long", old_s + 100, room=room(name, "RM_old"), participant=ada)],
            old_s * 1000 + DAY_MS,
        )
        await fold(conn, [body("participant_left", "EV_left", BASE_S, room=room(name, "RM_old"), participant=ada)])
        await fold(conn, meeting(name, tag="new"))
        kept = await keep_partitions(conn, NOW_MS, 2)
        assert kept.deleted == 9
        checked = Checked()
        assert await find(conn, checked=checked) == []
        # The old meeting's two sessions and its room can no longer be proven, nor can the long session.
        assert (checked.states, checked.unproven) == (7, 4)
        before = await everything(conn)
        await conn.execute(
            "UPDATE session SET state = replace(convert_from(state, 'UTF8'), '\"left_ms\"', '\"xeft_ms\"')::bytea"
            " WHERE sid = 'PA_long'"
        )
        found = await find(conn)
        assert [one.key for one in found if one.table == "session"] == ["PA_long"]
        for _ in range(3):
            await correct(conn, writer)
        assert await find(conn) == []
        assert await everything(conn) == before


async def test_verify_and_rebuild_work_while_events_are_folded(history: Pool, conn: Connection) -> None:
    """No false alarm, and corrections last, although events of the same rollups keep arriving."""
    project_id = await conn.fetchval("SELECT id FROM project")
    stop, counts = asyncio.Event(), [0, 0, 0]

    async def keep_folding(partition: int) -> None:
        rng = random.Random(partition)
        async with history.acquire() as mine:
            while not stop.is_set():
                name = livekit_room(project_id, "live", f"busy-{partition}")
                bodies = meeting(
                    name,
                    tag=f"w{partition}x{counts[partition]}",
                    start_s=BASE_S + rng.randint(0, 7000),
                    seconds=rng.randint(9, 9000),
                )
                rng.shuffle(bodies)
                for at in range(0, len(bodies), 3):
                    await fold_batch(mine, partition, [Received(NOW_MS, one) for one in bodies[at : at + 3]])
                    # Dozens of folds a second, not hundreds: every check reads everything that was folded before.
                    await asyncio.sleep(0.02)
                counts[partition] += 1

    folding = [asyncio.create_task(keep_folding(number)) for number in range(3)]
    try:
        async with history.acquire() as writer:
            for _ in range(5):
                assert await find(conn) == []
            for table, statement in (
                ("usage_hour", "UPDATE usage_hour SET participant_ms = participant_ms + 1000, video_ms = 0"),
                (
                    "session",
                    "UPDATE session SET state = replace(convert_from(state, 'UTF8'), '\"left_ms\":1795',"
                    " '\"left_ms\":1796')::bytea"
                    " WHERE ended_by = 'left'",
                ),
                ("concurrency", "UPDATE concurrency SET peak = peak + 3"),
                ("usage_group", "DELETE FROM usage_group"),
            ):
                # An update of every row locks rows in another order than the folds do. The table lock waits for the folds
                # before the update holds any row. Otherwise Postgres would end one of the two because of a deadlock.
                async with conn.transaction():
                    await conn.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                    await conn.execute(statement)
                assert table in {one.table for one in await correct(conn, writer)}
                for _ in range(5):
                    if not await correct(conn, writer):
                        break
                assert await find(conn) == []
            while min(counts) < 2:
                assert not any(one.done() for one in folding)
                await asyncio.sleep(0.01)
    finally:
        stop.set()
        await asyncio.gather(*folding)
    assert await find(conn) == []


async def test_memory_of_verify_does_not_grow_with_the_history(pool: Pool, project: CreatedProject) -> None:
    """Ten times the history on more days takes hardly more memory."""

    async def history(conn: Connection, first: int, count: int) -> None:
        for number in range(first, first + count):
            name = livekit_room(project.project_id, "live", f"r{number % 7}")
            bodies = [
                one
                for part in range(20)
                for one in meeting(name, tag=f"n{number}p{part}", start_s=BASE_S - 86400 * number, seconds=600)
            ]
            await fold(conn, bodies, BASE_S * 1000)

    async def peak(conn: Connection) -> int:
        tracemalloc.start()
        try:
            assert await find(conn) == []
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async with pool.acquire() as conn:
        await history(conn, 0, 10)
        assert await find(conn) == []
        small = await peak(conn)
        await history(conn, 10, 90)
        large = await peak(conn)
    assert large < small * 2, (small, large)


async def test_usage_verify_and_rebuild_commands(with_history: Settings, conn: Connection) -> None:
    done = relay(with_history, "usage", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference" in done.stdout
    assert done.stderr == ""
    await conn.execute("UPDATE usage_hour SET video_ms = 0; DELETE FROM session WHERE sid = 'PA_livea1'")
    done = relay(with_history, "usage", "verify", "--from", "2026-11-18", "--to", "2026-11-19")
    assert done.returncode == 1
    assert "PA_livea1" in done.stdout
    document = relay_json(with_history, "usage", "rebuild")
    assert document["found"] == len(document["differences"]) > 1
    assert document["left"] == 0
    document = relay_json(with_history, "usage", "verify")
    assert (document["found"], document["differences"], document["from"]) == (0, [], None)
    for wrong in (["--from", "yesterday"], ["--from", "2026-11-19", "--to", "2026-11-18"]):
        done = relay(with_history, "usage", "verify", *wrong)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
