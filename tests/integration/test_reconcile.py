"""Reconciliation against a LiveKit that fails, lags and lists ghosts: what it may conclude."""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from livekit.protocol import egress, ingress, models

from services.cli import reconcile as command
from services.worker.jobs import periodic_jobs
from services.worker.periodic import JobContext, run_if_due
from services.worker.reconcile_job import reconcile_on_schedule
from shared.errors import LiveKitError
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Pool
from shared.infra.redis import event_stream
from shared.infra.redis.event_stream import partition_of
from shared.infra.settings import Settings
from shared.ledger import reconcile as reconciliation
from shared.ledger.fold import fold_batch
from shared.ledger.proof import Checked
from shared.ledger.queries.reconcile import last_passes
from shared.ledger.reconcile import JOB, reconcile
from shared.ledger.verify import verify
from shared.livekit.room_service import RoomService
from shared.metering.reconcile import PROVE_AFTER_MS
from shared.models.operations import Pass
from shared.models.projects import CreatedProject
from shared.models.received import Received
from shared.operations.queries import periodic as periodic_queries
from tests import livekit_bodies as bodies
from tests.fake_livekit import FakeLiveKit, fake_livekit, twirp_failure
from tests.integration.conftest import SetClock
from tests.integration.test_periodic import until

START_MS = 1_795_000_000_000


class ReconcileWorld(NamedTuple):
    """A LiveKit, the clock of both LiveKit and Relay, and Relay's reconciliation pass."""

    livekit: FakeLiveKit
    clock: SetClock
    pool: Pool
    service: RoomService
    project: str

    @property
    def lobby(self) -> str:
        return livekit_room(self.project, "live", "lobby")

    def after(self, seconds: float) -> "ReconcileWorld":
        self.clock.at_ms += int(seconds * 1000)
        return self

    async def poll(self) -> Pass:
        return (await reconcile(self.pool, self.service, self.clock)).done

    def joins(self, identity: str, room: str | None = None, **fields: Any) -> models.ParticipantInfo:
        now = {"joined_at_ms": self.clock.at_ms, "joined_at": self.clock.at_ms // 1000}
        name = room or self.lobby
        if name not in self.livekit.rooms:
            self.livekit.add_room(name, creation_time_ms=self.clock.at_ms, creation_time=self.clock.at_ms // 1000)
        return self.livekit.add_participant(name, identity, **now, **fields)

    def leaves(self, identity: str) -> None:
        del self.livekit.people[self.lobby][identity]

    async def webhook(self, event: str, person: models.ParticipantInfo, **more: Any) -> None:
        room = self.livekit.rooms.get(self.lobby) or models.Room(sid="RM_gone", name=self.lobby)
        body = bodies.body(
            event,
            f"EV_{event}_{person.sid}_{self.clock.at_ms}",
            self.clock.at_ms // 1000,
            room={"sid": room.sid, "name": room.name},
            participant=bodies.participant(person.sid, person.identity, person.joined_at_ms),
            **more,
        )
        async with self.pool.acquire() as conn:
            await fold_batch(conn, partition_of(body), [Received(self.clock.at_ms, body)])

    async def sessions(self) -> dict[str, tuple[int | None, int | None, str | None]]:
        """Return (start, end, ended by) by identity, in ms since the test began."""
        async with self.pool.acquire() as conn:
            rows = await conn.fetch("SELECT identity, started_ms, ended_ms, ended_by FROM session ORDER BY sid")
        return {row["identity"]: (_since(row["started_ms"]), _since(row["ended_ms"]), row["ended_by"]) for row in rows}


def _since(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms - START_MS


@pytest.fixture
async def world(settings: Settings, pool: Pool, project: CreatedProject) -> AsyncIterator[ReconcileWorld]:
    clock = SetClock(START_MS)
    async with (
        fake_livekit(settings.livekit_api_key, settings.livekit_api_secret) as livekit,
        RoomService(livekit.url, settings.livekit_api_key, settings.livekit_api_secret, clock) as service,
    ):
        yield ReconcileWorld(livekit, clock, pool, service, project.project_id)
    # The kept events prove every conclusion, and the sums are those of the sessions.
    async with pool.acquire() as conn:
        assert [wrong.difference async for wrong in verify(conn, None, Checked(), lambda _: None)] == []


async def test_a_pass_opens_unknown_participants_and_confirms_the_others(world: ReconcileWorld) -> None:
    ada = world.joins("ada")
    await world.webhook("participant_joined", ada)
    world.joins("bob", kind=models.ParticipantInfo.Kind.AGENT)
    done = await world.after(20).poll()
    assert (done.rooms, done.participants, done.confirmed, done.opened, done.closed) == (1, 2, 1, 1, 0)
    assert await world.sessions() == {"ada": (0, None, None), "bob": (0, None, None)}
    async with world.pool.acquire() as conn:
        assert await conn.fetchval("SELECT kind FROM session WHERE identity = 'bob'") == "AGENT"
        # A confirmation stores no event. Otherwise a call of an hour would keep 120 events per participant.
        before = await conn.fetchval("SELECT count(*) FROM event")
        done = await world.after(30).poll()
        assert (done.confirmed, done.opened, done.corrected) == (2, 0, 0)
        assert await conn.fetchval("SELECT count(*) FROM event") == before
        assert await conn.fetchval("SELECT min(confirmed_ms) FROM session") == world.clock.at_ms


async def test_a_missing_participant_is_closed_after_two_polls(world: ReconcileWorld) -> None:
    world.joins("ada")
    await world.after(30).poll()
    await world.after(30).poll()
    world.leaves("ada")
    assert (await world.after(30).poll()).closed == 0
    assert (await world.sessions())["ada"] == (0, None, None)
    assert (await world.after(30).poll()).closed == 1
    assert (await world.sessions())["ada"] == (0, 60_000, "reconciled")
    done = await world.after(30).poll()
    assert (done.closed, done.opened) == (0, 0)
    async with world.pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM absence") == 0
        inferred = await conn.fetchval("SELECT sum(inferred_ms)::bigint FROM usage_hour")
    assert inferred == 60_000


async def test_polls_in_quick_succession_close_no_session(world: ReconcileWorld) -> None:
    """LiveKit's listing lags: an entry can be missing for a moment although its participant is connected."""
    world.joins("ada")
    await world.after(30).poll()
    person = world.livekit.people[world.lobby].pop("ada")
    for _ in range(5):
        await world.after(2).poll()
    world.livekit.people[world.lobby]["ada"] = person
    await world.after(2).poll()
    world.leaves("ada")
    # Absences from before the participant was seen again do not count.
    assert (await world.after(10).poll()).closed == 0
    assert (await world.after(10).poll()).closed == 0
    assert (await world.after(10).poll()).closed == 1


async def test_a_real_leave_overrides_an_inferred_end(world: ReconcileWorld) -> None:
    ada = world.joins("ada")
    await world.after(30).poll()
    world.leaves("ada")
    await world.after(40).poll()
    await world.after(30).poll()
    assert (await world.sessions())["ada"] == (0, 30_000, "reconciled")
    world.clock.at_ms = START_MS + 65_000
    await world.webhook("participant_left", ada)
    assert (await world.sessions())["ada"] == (0, 65_000, "left")


async def test_a_session_that_was_closed_too_soon_is_opened_again(world: ReconcileWorld) -> None:
    person = world.joins("ada")
    await world.after(30).poll()
    world.leaves("ada")
    await world.after(30).poll()
    await world.after(30).poll()
    assert (await world.sessions())["ada"][2] == "reconciled"
    world.livekit.people[world.lobby]["ada"] = person
    assert (await world.after(30).poll()).opened == 1
    assert (await world.sessions())["ada"] == (0, None, None)


async def test_a_livekit_error_does_not_count_as_an_absence(world: ReconcileWorld) -> None:
    world.joins("ada")
    await world.after(30).poll()
    world.leaves("ada")
    world.livekit.failure = twirp_failure(500, "internal")
    for _ in range(5):
        with pytest.raises(LiveKitError):
            await world.after(30).poll()
    assert (await world.sessions())["ada"] == (0, None, None)
    async with world.pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM absence") == 0
        assert [run.error is not None for run in await last_passes(conn, 9)] == [True] * 5 + [False]


async def test_an_unreachable_livekit_or_wrong_secret_is_not_an_absence(
    world: ReconcileWorld, settings: Settings
) -> None:
    """LiveKit is unreachable, or the secret belongs to another LiveKit."""
    world.joins("ada")
    await world.after(30).poll()
    clock = world.clock
    for url, secret in (("http://127.0.0.1:9", "secret"), (world.livekit.url, "not-the-secret")):
        async with RoomService(url, settings.livekit_api_key, secret, clock) as service:
            for _ in range(3):
                clock.at_ms += 30_000
                with pytest.raises(LiveKitError):
                    await reconcile(world.pool, service, clock)
    assert (await world.sessions())["ada"] == (0, None, None)


async def test_sessions_of_failed_rooms_are_not_closed(world: ReconcileWorld) -> None:
    rooms = [livekit_room(world.project, "live", f"room-{number}") for number in range(20)]
    for number, room in enumerate(rooms):
        world.joins(f"person-{number}", room)
    assert (await world.after(30).poll()).opened == 20
    world.livekit.people.clear()
    world.livekit.refusing = set(rooms[:10])
    await world.after(30).poll()
    done = await world.after(30).poll()
    assert (done.rooms_failed, done.closed) == (10, 10)
    open_now = {identity for identity, (_, end, _) in (await world.sessions()).items() if end is None}
    assert open_now == {f"person-{number}" for number in range(10)}
    # A failure neither deletes an earlier absence nor confirms it.
    world.livekit.refusing.clear()
    assert (await world.after(30).poll()).closed == 0
    world.livekit.refusing = set(rooms[:10])
    assert (await world.after(30).poll()).closed == 0
    world.livekit.refusing.clear()
    assert (await world.after(30).poll()).closed == 10
    ends = {end for identity, (_, end, _) in (await world.sessions()).items()}
    assert ends == {30_000}


async def test_a_pass_over_a_slow_livekit_ends_in_bounded_time(
    world: ReconcileWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms that the time did not suffice for count as failed. The pass concludes about the others."""
    for number in range(60):
        world.joins(f"person-{number}", livekit_room(world.project, "live", f"room-{number}"))
    await world.after(30).poll()
    world.livekit.people.clear()
    # Only LiveKit's answers let time pass. There is time for 20 of them.
    passing = SimpleNamespace(monotonic=lambda: float(len(world.livekit.calls)))
    monkeypatch.setattr(reconciliation, "time", passing)
    monkeypatch.setattr(reconciliation, "ASK_WITHIN_S", 20.0)
    for _ in range(2):
        done = await world.after(30).poll()
        assert 0 < done.rooms_failed < 60
    assert done.closed <= 60 - done.rooms_failed
    assert sum(1 for _, end, _ in (await world.sessions()).values() if end is None) == 60 - done.closed


async def test_a_join_newer_than_the_listing_is_not_counted_as_missing(world: ReconcileWorld) -> None:
    """The webhook of the join is folded during the pass, so the listing cannot contain the participant."""
    world.livekit.add_room(world.lobby)
    for number in range(3):
        world.after(30)
        world.livekit.gate = asyncio.Event()
        polled = asyncio.create_task(world.poll())
        await until(lambda: world.livekit.waiting > 0)
        world.clock.at_ms += 1
        newer = models.ParticipantInfo(sid=f"PA_new{number}", identity=f"new-{number}", joined_at_ms=world.clock.at_ms)
        await world.webhook("participant_joined", newer)
        world.livekit.gate.set()
        await polled
        async with world.pool.acquire() as conn:
            assert not await conn.fetchval("SELECT count(*) FROM absence WHERE sid = $1", newer.sid)


async def test_a_very_recent_join_is_left_to_its_webhook(world: ReconcileWorld) -> None:
    world.joins("ada")
    assert (await world.after(1).poll()).opened == 0
    assert (await world.after(30).poll()).opened == 1


async def test_a_participant_that_never_became_active_is_not_opened(world: ReconcileWorld) -> None:
    world.joins("slow", state=models.ParticipantInfo.State.JOINED)
    assert (await world.after(30).poll()).opened == 0
    assert await world.sessions() == {}


async def test_lost_track_events_are_corrected(world: ReconcileWorld) -> None:
    camera = models.TrackInfo(sid="TR_1", type=models.TrackType.VIDEO, source=models.TrackSource.CAMERA)
    ada = world.joins("ada")
    await world.webhook("participant_joined", ada)
    ada.tracks.append(camera)
    assert (await world.after(30).poll()).corrected == 1
    assert (await world.after(30).poll()).corrected == 0
    del ada.tracks[:]
    await world.after(30).poll()
    assert (await world.after(30).poll()).corrected == 1
    world.clock.at_ms = START_MS + 150_000
    await world.webhook("participant_left", ada)
    async with world.pool.acquire() as conn:
        row = await conn.fetchrow("SELECT participant_ms, video_ms, inferred_ms FROM usage_hour")
    # Video counts from the first to the last listing with the camera. The end of the session is not inferred.
    assert tuple(row or ()) == (150_000, 30_000, 0)


async def test_a_session_opened_by_a_track_event_gets_its_joining_time(world: ReconcileWorld) -> None:
    ada = world.joins("ada", kind=models.ParticipantInfo.Kind.SIP)
    ada.tracks.append(models.TrackInfo(sid="TR_1", type=models.TrackType.AUDIO))
    world.after(60)
    body = bodies.body(
        "track_published",
        "EV_1",
        world.clock.at_ms // 1000,
        room={"sid": world.livekit.rooms[world.lobby].sid, "name": world.lobby},
        participant={"sid": ada.sid, "identity": "ada"},
        track={"sid": "TR_1"},
    )
    async with world.pool.acquire() as conn:
        await fold_batch(conn, partition_of(body), [Received(world.clock.at_ms, body)])
    assert await world.sessions() == {"ada": (60_000, None, None)}
    assert (await world.after(1).poll()).corrected == 1
    assert await world.sessions() == {"ada": (0, None, None)}
    assert (await world.after(30).poll()).corrected == 0


async def test_rooms_of_no_project_and_recorders_are_ignored(world: ReconcileWorld) -> None:
    for name in ("lobby", "p_nosuchproject__lobby", "x_y__z"):
        world.joins("stranger", name)
    world.joins("recorder", kind=models.ParticipantInfo.Kind.EGRESS)
    done = await world.after(30).poll()
    assert done.rooms == 1
    assert {call.message.room for call in world.livekit.calls if call.method == "ListParticipants"} == {world.lobby}
    assert await world.sessions() == {"recorder": (None, None, None)}
    assert (await world.after(30).poll()).opened == 0


async def test_test_mode_is_reconciled_too(world: ReconcileWorld) -> None:
    world.joins("ada", livekit_room(world.project, "test", "lobby"))
    assert (await world.after(30).poll()).opened == 1
    async with world.pool.acquire() as conn:
        assert await conn.fetchval("SELECT mode FROM session") == "test"


async def test_a_ghost_of_a_dead_node_is_closed_at_its_last_confirmation(world: ReconcileWorld) -> None:
    """LiveKit crashed and its Redis still lists all participants.

    No node answers for them, in two questions far apart.
    """
    world.joins("ada")
    await world.after(30).poll()
    world.livekit.dead = {world.lobby}
    passes = []
    while (await world.sessions())["ada"][1] is None:
        passes.append(await world.after(30).poll())
        assert len(passes) < 30
    assert world.clock.at_ms - START_MS >= 2 * PROVE_AFTER_MS
    # From the first question on the session is not confirmed, so its usage does not grow.
    unconfirmed = [done for done in passes if not done.confirmed]
    assert len(unconfirmed) >= PROVE_AFTER_MS / 30_000
    assert all(done.unproven for done in unconfirmed)
    start, end, ended_by = (await world.sessions())["ada"]
    assert (start, ended_by) == (0, "reconciled")
    assert end is not None
    assert end <= 30_000
    # From then on Relay seldom asks, because each such question takes LiveKit seconds.
    asked = len(world.livekit.orders("UpdateSubscriptions"))
    for _ in range(9):
        await world.after(30).poll()
    assert len(world.livekit.orders("UpdateSubscriptions")) <= asked + 1
    # It was a network partition between LiveKit's nodes and not a crash, so all of the time counts.
    world.livekit.dead.clear()
    for _ in range(11):
        await world.after(30).poll()
    assert (await world.sessions())["ada"] == (0, None, None)


async def test_a_ghost_in_a_served_room_is_closed_at_its_last_confirmation(world: ReconcileWorld) -> None:
    """After a crash another participant is back in the room.

    `ada` is not, and her entry stays in LiveKit's Redis.
    """
    world.joins("ada")
    await world.after(30).poll()
    world.livekit.ghosts = {"ada"}
    for _ in range(13):
        await world.after(30).poll()
    start, end, ended_by = (await world.sessions())["ada"]
    assert (start, ended_by) == (0, "reconciled")
    assert end is not None
    assert end <= 30_000
    asked = len(world.livekit.orders("UpdateSubscriptions"))
    for _ in range(5):
        assert (await world.after(30).poll()).opened == 0
    assert len(world.livekit.orders("UpdateSubscriptions")) <= asked + 1
    world.livekit.ghosts.clear()
    for _ in range(11):
        await world.after(30).poll()
    assert (await world.sessions())["ada"] == (0, None, None)


async def test_ghosts_older_than_relay_are_not_opened(world: ReconcileWorld) -> None:
    world.joins("ada")
    world.livekit.ghosts = {"ada"}
    world.after(86_400)
    world.joins("bob")
    assert (await world.after(30).poll()).opened == 1
    assert set(await world.sessions()) == {"bob"}


async def test_a_listing_is_trusted_if_livekit_cannot_prove_it(world: ReconcileWorld) -> None:
    world.joins("ada")
    await world.after(30).poll()
    world.after(PROVE_AFTER_MS / 1000)
    world.livekit.unknown_methods = {"UpdateSubscriptions"}
    done = await world.poll()
    assert (done.confirmed, done.unproven) == (1, 0)


async def test_egresses_and_ingresses_are_reconciled(world: ReconcileWorld) -> None:
    world.joins("ada")
    room = world.livekit.rooms[world.lobby]
    started_ns = START_MS * 1_000_000
    world.livekit.egresses = [
        egress.EgressInfo(
            egress_id="EG_1",
            room_name=world.lobby,
            room_id=room.sid,
            status=egress.EgressStatus.EGRESS_ACTIVE,
            started_at=started_ns,
            web=egress.WebEgressRequest(url="https://example.com"),
        )
    ]
    world.livekit.ingresses = [
        ingress.IngressInfo(
            ingress_id="IN_1",
            room_name=world.lobby,
            input_type=ingress.IngressInput.WHIP_INPUT,
            state=ingress.IngressState(started_at=started_ns, resource_id="r1"),
        )
    ]
    await world.after(30).poll()
    await world.after(30).poll()
    world.livekit.ingresses[0].state.ended_at = (START_MS + 70_000) * 1_000_000
    # The recorder died: LiveKit lists its egress as active forever, but the room has ended.
    world.livekit.rooms.clear()
    world.livekit.people.clear()
    await world.after(30).poll()
    await world.after(30).poll()
    async with world.pool.acquire() as conn:
        rows = await conn.fetch("SELECT meter, type, active_ms, inferred_ms, runs FROM media_hour ORDER BY meter")
    assert [tuple(row) for row in rows] == [
        ("egress", "web", 60_000, 60_000, 1),
        ("ingress", "whip", 60_000, 60_000, 1),
    ]


async def test_concurrent_passes_count_each_session_once(world: ReconcileWorld) -> None:
    for number in range(20):
        world.joins(f"person-{number}")
    world.after(30)
    await asyncio.gather(*(world.poll() for _ in range(4)))
    world.livekit.people[world.lobby].clear()
    for _ in range(2):
        world.after(30)
        await asyncio.gather(*(world.poll() for _ in range(4)))
    assert set((await world.sessions()).values()) == {(0, 30_000, "reconciled")}
    async with world.pool.acquire() as conn:
        total = await conn.fetchrow(
            "SELECT sum(participant_ms)::bigint AS ms, sum(sessions)::bigint AS n FROM usage_hour"
        )
        assert tuple(total or ()) == (20 * 30_000, 20)
        assert await conn.fetchval("SELECT count(*) FROM event") == 40


async def test_the_scheduled_pass_runs_in_one_worker_at_a_time(world: ReconcileWorld, settings: Settings) -> None:
    import msgspec

    world.joins("ada")
    world.after(30)
    own = msgspec.structs.replace(settings, livekit_api_url=world.livekit.url)
    redis = event_stream.connect_redis(settings.redis_url)
    context = JobContext(world.pool, redis, own, world.clock)
    job = next(job for job in periodic_jobs(own) if job.name == JOB)
    assert (job.interval_s, job.run) == (30, reconcile_on_schedule)
    await asyncio.gather(*(run_if_due(job, context) for _ in range(4)))
    await redis.aclose()
    assert len(world.livekit.orders("ListRooms")) == 1
    async with world.pool.acquire() as conn:
        last = await periodic_queries.last_run(conn, JOB)
        assert last is not None
        assert last.error is None
        assert [run.opened for run in await last_passes(conn, 9)] == [1]


async def test_the_reconcile_command_reports_changes(world: ReconcileWorld, settings: Settings) -> None:
    import time

    import msgspec

    world.clock.at_ms = time.time_ns() // 1_000_000 - 60_000
    world.joins("ada")
    own = msgspec.structs.replace(settings, livekit_api_url=world.livekit.url)
    result = await command.run_once(own)
    assert (result.opened, result.confirmed, result.closed) == (1, 0, 0)
    assert (
        command.describe(result)[0]
        == f"{world.project} live lobby: ada is connected; now counted as LiveKit reports it"
    )
    assert json.loads(msgspec.json.encode(result))["changes"][0]["identity"] == "ada"
    again = await command.run_once(own)
    assert (again.opened, again.confirmed, again.changes) == (0, 1, [])
    async with world.pool.acquire() as conn, periodic_queries.job_lock(conn, JOB):
        with pytest.raises(command.AlreadyReconciling):
            await command.run_once(own, wait_s=1.0)


async def test_a_pass_over_thousands_of_rooms(world: ReconcileWorld) -> None:
    """Prints the duration of a pass (pytest -s)."""
    import time

    for number in range(2000):
        room = livekit_room(world.project, "live", f"room-{number}")
        for person in range(3):
            world.joins(f"person-{number}-{person}", room)
    world.after(30)
    for what in ("opening", "confirming"):
        started = time.monotonic()
        done = await world.poll()
        print(f"{what} {done.participants} participants in {done.rooms} rooms: {time.monotonic() - started:.1f} s")
        world.after(30)
    assert (done.confirmed, done.rooms_failed) == (6000, 0)
