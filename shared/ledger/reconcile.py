"""Run one pass of reconciliation: list LiveKit's rooms, compare them with the sessions, correct.

shared/metering/reconcile.py compares. A pass runs when the worker starts, on its schedule, and as `relay reconcile`. LiveKit is
listed before the database is read. Otherwise a participant who leaves in between would look like a missing one. No database
connection is held during the listing.
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
# Concurrent requests to LiveKit. LiveKit serves calls on the same cores, so the number is small.
AT_ONCE = 16
# Rooms that could not be listed within this time count as failed and are left for the next pass.
ASK_WITHIN_S = 60.0
_encode = msgspec.json.Encoder().encode


class PassReport(NamedTuple):
    """The result of a pass. ``events``: its corrections."""

    done: Pass
    events: list[OwnEvent]


async def reconcile(pool: Pool, service: RoomService, clock: Clock) -> PassReport:
    """Run one pass. Two passes at once are safe, but unnecessary.

    Raises a ``LiveKitError`` if the rooms cannot be listed.
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
    requests = _Requests()
    async with pool.acquire() as conn:
        claimed = {parsed.project_id for room in rooms if (parsed := parse_livekit_room(room.name)) is not None}
        projects = await project_queries.existing_projects(conn, sorted(claimed))
    owned = [
        room_info(room)
        for room in rooms
        if (parsed := parse_livekit_room(room.name)) is not None and parsed.project_id in projects
    ]

    async def list_room(index: int) -> RoomListing:
        sent_ms = clock.now_ms()
        try:
            people = await service.list_participants(owned[index].name)
        except RoomNotFound:
            people = []
        infos = (participant_info(person) for person in people)
        return RoomListing(owned[index], sent_ms, {info.sid: info for info in infos if info.sid})

    listed, (egresses, ingresses) = await asyncio.gather(
        requests.all([_bound(list_room, index) for index in range(len(owned))]), _list_runs(service)
    )
    listing = Listing(
        started_ms,
        {
            info.name: answer if isinstance(answer, RoomListing) else RoomListing(info, started_ms, None)
            for info, answer in zip(owned, listed, strict=True)
        },
    )
    runs = RunListing(started_ms, egresses, ingresses, frozenset(room.sid for room in rooms))
    return await _correct(pool, service, clock, requests, listing, runs)


async def _correct(
    pool: Pool, service: RoomService, clock: Clock, requests: "_Requests", listing: Listing, runs: RunListing
) -> PassReport:
    """Compare the listing with the stored sessions and runs, and store the corrections as events."""
    people = [sid for room in listing.rooms.values() for sid in (room.people or {})]
    async with pool.acquire() as conn:
        known = await queries.open_sessions(conn)
        absences, proofs = await queries.absences(conn), await queries.proofs(conn)
        others = [sid for sid in (*people, *(sid for sid, _ in absences)) if sid not in known]
        known.update(await queries.other_sessions(conn, others))
        run_keys = list(listed_runs(runs))
        known_runs = await queries.known_runs(conn, run_keys)
    questions, verdicts = to_prove(listing, known, proofs, absences)
    answers = await _prove(service, clock, requests, questions)
    for sid, (verdict, proof) in answers.items():
        verdicts[sid] = verdict
        if proof is not None:
            proofs[sid] = proof
    findings = decide(listing, known, absences, verdicts, proofs)
    confirmed_runs = decide_runs(findings, runs, known_runs, absences)
    async with pool.acquire() as conn:
        await _fold(conn, clock, findings.events)
        await queries.confirm_sessions(conn, findings.confirmed)
        await queries.confirm_runs(conn, confirmed_runs)
        await queries.replace_absences(conn, findings.absences)
        complete = all(room.people is not None for room in listing.rooms.values())
        new_proofs = {sid: proof for sid, (_, proof) in answers.items() if proof is not None}
        await queries.record_proofs(conn, new_proofs, people if complete else None)
    return PassReport(_summary(listing, findings, verdicts, len(people), clock.now_ms()), findings.events)


def _summary(
    listing: Listing, findings: Findings, verdicts: Mapping[str, Verdict], participants: int, finished_ms: int
) -> Pass:
    return Pass(
        listing.started_ms,
        finished_ms,
        rooms=len(listing.rooms),
        rooms_failed=sum(1 for room in listing.rooms.values() if room.people is None),
        participants=participants,
        confirmed=len(findings.confirmed),
        unproven=sum(1 for verdict in verdicts.values() if verdict != "here"),
        opened=findings.opened,
        corrected=findings.corrected,
        closed=findings.closed,
    )


async def _fold(conn: Connection, clock: Clock, events: Iterable[OwnEvent]) -> None:
    """Fold these events like LiveKit's: store them, then merge them. Repeating it changes nothing."""
    partitions: defaultdict[int, list[Received]] = defaultdict(list)
    for event in events:
        body = _encode(event)
        partitions[partition_of(body)].append(Received(clock.now_ms(), body))
    for partition, batch in sorted(partitions.items()):
        await fold_batch(conn, partition, batch, own=True)


class _NotSent(LiveKitError):
    """A request that was not sent because the pass ran out of time."""


class _Requests:
    """Runs requests to LiveKit, ``AT_ONCE`` at a time, for at most ``ASK_WITHIN_S`` seconds."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._until = time.monotonic() + ASK_WITHIN_S

    async def all(self, requests: list[Callable[[], Awaitable[T]]]) -> list[T | LiveKitError]:
        """Return the answers in order. A failed request has its error instead."""
        return list(await asyncio.gather(*(self._one(request) for request in requests)))

    async def _one(self, request: Callable[[], Awaitable[T]]) -> T | LiveKitError:
        async with self._slots:
            if time.monotonic() > self._until:
                return _NotSent("the pass ran out of time")
            try:
                return await request()
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
    service: RoomService, clock: Clock, requests: _Requests, questions: list[Question]
) -> dict[str, tuple[Verdict, Proof | None]]:
    """Ask the nodes for these participants. Return the verdict and the proof of each, by sid.

    If no node answers for a participant, the node of its room is asked once. If it answers, the participant is gone; otherwise
    the verdict is unknown. If LiveKit does not support the request, the listing counts.
    """
    by_room: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_room[question.room].append(question)
    rooms = list(by_room)

    async def prove_room(index: int) -> dict[str, tuple[Verdict, Proof | None]]:
        room, served, answers = rooms[index], None, dict[str, tuple[Verdict, Proof | None]]()
        for question in by_room[room]:
            asked_ms = clock.now_ms()
            if served is False:
                answers[question.sid] = ("unknown", Proof(asked_ms, None))
            elif await service.serves_participant(room, question.identity):
                answers[question.sid] = ("here", Proof(asked_ms, asked_ms))
                served = True
            else:
                served = served or await service.serves_room(room)
                answers[question.sid] = ("gone" if served else "unknown", Proof(asked_ms, None))
        return answers

    verdicts: dict[str, tuple[Verdict, Proof | None]] = {}
    for room, answer in zip(rooms, await requests.all([_bound(prove_room, i) for i in range(len(rooms))]), strict=True):
        if isinstance(answer, LiveKitError):
            log.warning("reconcile: participants of a room cannot be proven: %s", answer)
            is_unanswered = isinstance(answer, LiveKitUnreachable | LiveKitTimedOut | _NotSent)
            verdicts.update(
                {question.sid: ("unknown" if is_unanswered else "here", None) for question in by_room[room]}
            )
        else:
            verdicts.update(answer)
    return verdicts
