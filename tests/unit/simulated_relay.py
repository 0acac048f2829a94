"""Relay's fold and reconciliation in memory: the pure parts, combined as the worker combines them."""

import json
from collections.abc import Iterable, Mapping
from random import Random
from typing import Protocol

import msgspec

from shared.errors import UnfoldableEvent
from shared.metering.observe import observe
from shared.metering.reconcile import (
    Absence,
    Known,
    Listing,
    Proof,
    RoomListing,
    Verdict,
    decide,
    sighting_event,
    to_prove,
)
from shared.metering.state import Room, Session, merge_room, merge_session, succession
from shared.metering.usage import interval_of, is_metered
from shared.models.livekit_event import decode_kept_event
from tests.unit.simulated_livekit import Event


class AskedLiveKit(Protocol):
    """The questions that reconciliation asks LiveKit."""

    def listing(self, at_ms: int) -> Listing | None: ...
    def serves_participant(self, sid: str, at_ms: int) -> bool: ...
    def serves_room(self, name: str, at_ms: int) -> bool: ...


class SimulatedRelay:
    """A Relay without a database.

    ``kept`` holds the body of every folded event, reconciliation's events included, as the event table does.
    """

    def __init__(self, livekit: AskedLiveKit) -> None:
        self._livekit = livekit
        self.sessions: dict[str, Session] = {}
        self.rooms: dict[str, Room] = {}
        self.confirmed: dict[str, int] = {}
        self.kept: list[bytes] = []
        self._absences: dict[tuple[str, str], Absence] = {}
        self._proofs: dict[str, Proof] = {}
        self.polled: list[int] = []

    def receive(self, event: Event) -> None:
        self.fold([json.dumps(event).encode()])

    def fold(self, bodies: Iterable[bytes]) -> None:
        for body in bodies:
            try:
                event = decode_kept_event(body)
                seen = observe(event, event.created_at * 1000)
            except UnfoldableEvent:
                continue
            self.kept.append(body)
            if seen.session is not None:
                known = self.sessions.get(seen.session.sid)
                merged = seen.session if known is None else merge_session(known, seen.session)
                self.sessions[seen.session.sid] = merged
            if seen.room is not None:
                known_room = self.rooms.get(seen.room.sid)
                self.rooms[seen.room.sid] = seen.room if known_room is None else merge_room(known_room, seen.room)
                self._succeed()

    def _succeed(self) -> None:
        for superseded in succession(self.rooms.values()):
            if self.rooms[superseded.sid].superseded_ms == superseded.superseded_ms or superseded.superseded_ms is None:
                continue
            sightings = [
                sighting_event(session, self.rooms[superseded.sid].name or "", superseded.superseded_ms, confirmed_ms)
                for sid, session in self.sessions.items()
                if session.room_sid == superseded.sid
                and self._ended_by(session) is None
                and (confirmed_ms := self.confirmed.get(sid)) is not None
            ]
            self.rooms[superseded.sid] = merge_room(self.rooms[superseded.sid], superseded)
            self.fold(map(msgspec.json.encode, sightings))

    def room_of(self, session: Session) -> Room | None:
        return self.rooms.get(session.room_sid or "")

    def _ended_by(self, session: Session) -> str | None:
        """Return the stored end reason. A session that is never metered counts as ended."""
        interval = interval_of(session, self.room_of(session)) if is_metered(session) else None
        return "aborted" if interval is None else interval.ended_by

    def poll(self, at_ms: int, failing: Mapping[str, bool]) -> None:
        """Run one pass. The participants of ``failing`` rooms cannot be listed."""
        answered = self._livekit.listing(at_ms)
        if answered is None:
            return
        self.polled.append(at_ms)
        rooms = {
            name: RoomListing(room.info, room.asked_ms, None if failing.get(name) else room.people)
            for name, room in answered.rooms.items()
        }
        listing = Listing(at_ms, rooms)
        listed = {sid for room in rooms.values() for sid in (room.people or {})} | {sid for sid, _ in self._absences}
        known: dict[str, Known] = {}
        for sid, session in self.sessions.items():
            ended_by = self._ended_by(session)
            if session.project_id is not None and (ended_by is None or sid in listed):
                known[sid] = Known(session, self.confirmed.get(sid), ended_by)  # type: ignore[arg-type]  # a str, not the Literal
        questions, verdicts = to_prove(listing, known, self._proofs, self._absences)
        for question in questions:
            here = self._livekit.serves_participant(question.sid, at_ms)
            there = here or self._livekit.serves_room(question.room, at_ms)
            verdict: Verdict = "here" if here else "gone" if there else "unknown"
            verdicts[question.sid] = verdict
            before = self._proofs.get(question.sid)
            answered_ms = at_ms if here else before.answered_ms if before else None
            self._proofs[question.sid] = Proof(at_ms, answered_ms)
        found = decide(listing, known, self._absences, verdicts, self._proofs)
        self.fold(map(msgspec.json.encode, found.events))
        self.confirmed.update(found.confirmed)
        self._absences = found.absences


def refold(livekit: AskedLiveKit, kept: list[bytes], rng: Random) -> SimulatedRelay:
    """Fold the same events in random order, some of them twice, into another Relay."""
    sent = kept + rng.sample(kept, len(kept) // 4)
    rng.shuffle(sent)
    other = SimulatedRelay(livekit)
    other.fold(sent)
    return other
