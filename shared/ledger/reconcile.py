"""Runs one pass of reconciliation: list from LiveKit, judge (shared/metering/reconcile.py), correct.

It runs on the schedule of the worker, at its start, and as `relay reconcile`. LiveKit is asked first and the database read
after it, so that a leave folded meanwhile is not taken for an absence. No connection is held while LiveKit is asked.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from shared.errors import LiveKitError, LiveKitTimedOut, LiveKitUnreachable, RoomNotFound
from shared.infra import metrics
from shared.infra.clock import Clock
from shared.infra.ids import parse_livekit_room
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.redis.event_stream import partition_of
from shared.ledger.fold import fold_batch
from shared.ledger.queries import reconcile as queries
from shared.livekit.listing import egress_info, ingress_info, participant_info, room_info
from shared.livekit.room_service import RoomService
from shared.metering.reconcile import (
    Findings,
    Listing,
    Proof,
    Question,
    RoomListing,
    Verdict,
    decide,
    to_prove,
)
from shared.metering.reconcile_runs import RunListing, decide_runs, listed_runs
from shared.models.livekit_event import EgressInfo, IngressInfo, OwnEvent
from shared.models.operations import Pass
from shared.models.received import Received
from shared.projects import queries as project_queries

log = logging.getLogger("relay.worker")
T = TypeVar("T")

JOB = "reconcile"
# Questions to LiveKit under way at once: LiveKit serves calls on the same cores.
AT_ONCE = 16
# Rooms that could not be asked within this time are left for the next pass, as if they had failed.
ASK_WITHIN_S = 60.0
_encode = msgspec.json.Encoder().encode


class PassReport(NamedTuple):
    """What a pass found. ``events``: what it put right, as events."""

    done: Pass
    events: list[OwnEvent]


async def reconcile(pool: Pool, service: RoomService, clock: Clock) -> PassReport:
    """Run one pass. Two passes at once do no harm, but the caller should run only one.

    Raises a ``LiveKitError`` if not even the rooms can be listed.
    """
    started_ms = clock.now_ms()
    try:
        report = await _pass(pool, service, clock, started_ms)
    except LiveKitError as error:
        async with pool.acquire() as conn:
            await queries.record_pass(conn, Pass(started_ms, clock.now_ms(), error=str(error)))
        metrics.reconcile_passes.labels("failed").inc()
        raise
    async with pool.acquire() as conn:
        await queries.record_pass(conn, report.done)
    _count(report.done, clock.now_ms())
    return report


def _count(done: Pass, now_ms: int) -> None:
    metrics.reconcile_passes.labels("partial" if done.rooms_failed else "complete").inc()
    metrics.reconcile_last_success.set(now_ms / 1000)
    metrics.reconcile_seconds.observe(max(0, now_ms - done.started_ms) / 1000)
    for change, count in (("opened", done.opened), ("corrected", done.corrected), ("closed", done.closed)):
        metrics.reconcile_changes.labels(change).inc(count)


async def _pass(pool: Pool, service: RoomService, clock: Clock, started_ms: int) -> PassReport:
    rooms = await service.list_rooms()
    asking = _Asking()
    async with pool.acquire() as conn:
        claimed = {parsed.project_id for room in rooms if (parsed := parse_livekit_room(room.name)) is not None}
        projects = await project_queries.existing_projects(conn, sorted(claimed))
    ours = [
        room_info(room)
        for room in rooms
        if (parsed := parse_livekit_room(room.name)) is not None and parsed.project_id in projects
    ]

    async def list_room(index: int) -> RoomListing:
        asked_ms = clock.now_ms()
        try:
            people = await service.list_participants(ours[index].name)
        except RoomNotFound:
            people = []
        infos = (participant_info(person) for person in people)
        return RoomListing(ours[index], asked_ms, {info.sid: info for info in infos if info.sid})

    listed, (egresses, ingresses) = await asyncio.gather(
        asking.all([_bound(list_room, index) for index in range(len(ours))]), _list_runs(service)
    )
    listing = Listing(
        started_ms,
        {
            info.name: answer if isinstance(answer, RoomListing) else RoomListing(info, started_ms, None)
            for info, answer in zip(ours, listed, strict=True)
        },
    )
    runs = RunListing(started_ms, egresses, ingresses, frozenset(room.sid for room in rooms))
    return await _conclude(pool, service, clock, asking, listing, runs)


async def _conclude(
    pool: Pool, service: RoomService, clock: Clock, asking: "_Asking", listing: Listing, runs: RunListing
) -> PassReport:
    people = [sid for room in listing.rooms.values() for sid in (room.people or {})]
    async with pool.acquire() as conn:
        known = await queries.open_sessions(conn)
        absences, proofs = await queries.absences(conn), await queries.proofs(conn)
        others = [sid for sid in (*people, *(sid for sid, _ in absences)) if sid not in known]
        known.update(await queries.other_sessions(conn, others))
        run_keys = list(listed_runs(runs))
        known_runs = await queries.known_runs(conn, run_keys)
    questions, verdicts = to_prove(listing, known, proofs, absences)
    asked = await _prove(service, clock, asking, questions)
    for sid, (verdict, proof) in asked.items():
        verdicts[sid] = verdict
        if proof is not None:
            proofs[sid] = proof
    found = decide(listing, known, absences, verdicts, proofs)
    confirmed_runs = decide_runs(found, runs, known_runs, absences)
    async with pool.acquire() as conn:
        await _fold(conn, clock, found.events)
        await queries.confirm_sessions(conn, found.confirmed)
        await queries.confirm_runs(conn, confirmed_runs)
        await queries.replace_absences(conn, found.absences)
        complete = all(room.people is not None for room in listing.rooms.values())
        fresh = {sid: proof for sid, (_, proof) in asked.items() if proof is not None}
        await queries.record_proofs(conn, fresh, people if complete else None)
    return PassReport(_summary(listing, found, verdicts, len(people), clock.now_ms()), found.events)


def _summary(
    listing: Listing, found: Findings, verdicts: Mapping[str, Verdict], participants: int, finished_ms: int
) -> Pass:
    return Pass(
        listing.started_ms,
        finished_ms,
        rooms=len(listing.rooms),
        rooms_failed=sum(1 for room in listing.rooms.values() if room.people is None),
        participants=participants,
        confirmed=len(found.confirmed),
        unproven=sum(1 for verdict in verdicts.values() if verdict != "here"),
        opened=found.opened,
        corrected=found.corrected,
        closed=found.closed,
    )


async def _fold(conn: Connection, clock: Clock, events: Iterable[OwnEvent]) -> None:
    """Fold these events like LiveKit's: stored first, then merged. A repetition changes nothing."""
    partitions: defaultdict[int, list[Received]] = defaultdict(list)
    for event in events:
        body = _encode(event)
        partitions[partition_of(body)].append(Received(clock.now_ms(), body))
    for partition, batch in sorted(partitions.items()):
        await fold_batch(conn, partition, batch, own=True)


class _TimeOver(LiveKitError):
    """A request that was not sent because the time was over."""


class _Asking:
    """Runs requests to LiveKit, ``AT_ONCE`` at a time, for at most ``ASK_WITHIN_S`` seconds."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._until = time.monotonic() + ASK_WITHIN_S

    async def all(self, questions: list[Callable[[], Awaitable[T]]]) -> list[T | LiveKitError]:
        """Return the answers in order. A failure takes the place of its answer."""
        return list(await asyncio.gather(*(self._one(question) for question in questions)))

    async def _one(self, question: Callable[[], Awaitable[T]]) -> T | LiveKitError:
        async with self._turn:
            if time.monotonic() > self._until:
                return _TimeOver("the time for asking was over")
            try:
                return await question()
            except LiveKitError as error:
                return error


def _bound(function: Callable[[int], Awaitable[T]], index: int) -> Callable[[], Awaitable[T]]:
    return lambda: function(index)


async def _list_runs(
    service: RoomService,
) -> tuple[dict[str, EgressInfo] | None, dict[str, IngressInfo] | None]:
    async def egresses() -> dict[str, EgressInfo] | None:
        try:
            return {info.egress_id: egress_info(info) for info in await service.list_egress()}
        except LiveKitError as error:
            log.warning("reconcile: egresses cannot be listed: %s", error)
            return None

    async def ingresses() -> dict[str, IngressInfo] | None:
        try:
            return {info.ingress_id: ingress_info(info) for info in await service.list_ingress()}
        except LiveKitError as error:
            log.warning("reconcile: ingresses cannot be listed: %s", error)
            return None

    return await asyncio.gather(egresses(), ingresses())


async def _prove(
    service: RoomService, clock: Clock, asking: _Asking, questions: list[Question]
) -> dict[str, tuple[Verdict, Proof | None]]:
    """Ask the nodes for these participants and return the verdict and the proof of each, by sid.

    If no node answers for a participant, its room is asked for once. If the room is served, the participant is gone;
    otherwise nothing is known. If LiveKit does not know the request, the listing is believed.
    """
    by_room: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_room[question.room].append(question)
    rooms = list(by_room)

    async def prove_room(index: int) -> dict[str, tuple[Verdict, Proof | None]]:
        room, served, found = rooms[index], None, dict[str, tuple[Verdict, Proof | None]]()
        for question in by_room[room]:
            asked_ms = clock.now_ms()
            if served is False:
                found[question.sid] = ("unknown", Proof(asked_ms, None))
            elif await service.serves_participant(room, question.identity):
                found[question.sid] = ("here", Proof(asked_ms, asked_ms))
                served = True
            else:
                served = served or await service.serves_room(room)
                found[question.sid] = ("gone" if served else "unknown", Proof(asked_ms, None))
        return found

    verdicts: dict[str, tuple[Verdict, Proof | None]] = {}
    for room, answer in zip(rooms, await asking.all([_bound(prove_room, i) for i in range(len(rooms))]), strict=True):
        if isinstance(answer, LiveKitError):
            log.warning("reconcile: participants of a room cannot be proven: %s", answer)
            unasked = isinstance(answer, LiveKitUnreachable | LiveKitTimedOut | _TimeOver)
            verdicts.update({question.sid: ("unknown" if unasked else "here", None) for question in by_room[room]})
        else:
            verdicts.update(answer)
    return verdicts
