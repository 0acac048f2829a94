"""A simulated LiveKit: a timeline of its rooms, the webhooks it sent, and its list at any moment.

The list includes the ghosts after a crash. Everything follows from a seed. Times are unix ms.

It lists and forgets like livekit-server v1.13.5: one entry for each identity and room name, kept in memory or in Redis. A crash
loses those in memory and leaves those in Redis unchanged. A stored room that is opened again keeps its sid.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import msgspec

from shared.metering.reconcile import Listing, RoomListing
from shared.models.livekit_event import ListedParticipant, RoomInfo, TrackInfo

Event = dict[str, Any]
START_MS = 20_775 * 86_400_000 + 86_400_000 - 600_000  # ten minutes before a midnight
NEVER = 1 << 62
_KINDS = ("STANDARD", "STANDARD", "STANDARD", "AGENT", "SIP", "INGRESS", "EGRESS")


class SimulatedStay(msgspec.Struct):
    """One participant sid and its true times, from connecting to leaving.

    ``active_ms`` is None if the connection was never completed. ``crashed`` means that LiveKit's crash ended it. ``tracks``
    holds (sid, type, source, from, to).
    """

    sid: str
    identity: str
    kind: str
    joined_ms: int
    end_ms: int
    active_ms: int | None
    tracks: list[tuple[str, str, str, int, int]]
    crashed: bool = False


class Opening(msgspec.Struct):
    """One room sid. ``served_again_ms`` is when a node served it again after a crash."""

    sid: str
    name: str
    open_ms: int
    close_ms: int
    stays: list[SimulatedStay]
    crashed: bool = False
    served_again_ms: int = NEVER


class Crash(NamedTuple):
    """LiveKit is down from ``at_ms`` to ``back_ms``. With ``redis`` its lists survive the crash."""

    at_ms: int
    back_ms: int
    redis: bool


class SimulatedLiveKit:
    """A LiveKit whose participants come and go for ``length_ms``."""

    def __init__(self, seed: int, length_ms: int, crash: bool) -> None:
        self._random = Random(seed)
        self._sids = 0
        rng = self._random
        at_ms = START_MS + rng.randrange(length_ms)
        self.crash = Crash(at_ms, at_ms + rng.randrange(1000, 90_000), rng.random() < 0.5) if crash else None
        self.end_ms = START_MS + length_ms
        names = ["p_aaaaaaaa__lobby", "t_aaaaaaaa__stage", "p_bbbbbbbb__lobby"][: rng.randint(1, 3)]
        self.openings = [opening for name in names for opening in self._openings(name, length_ms)]
        closings = [opening.close_ms for opening in self.openings if opening.close_ms != NEVER]
        self.end_ms = max([self.end_ms, *closings, *(self.crash[:2] if self.crash else ())])

    def _sid(self, prefix: str) -> str:
        self._sids += 1
        return f"{prefix}_{self._sids:04}"

    def _openings(self, name: str, length_ms: int) -> Iterator[Opening]:
        rng, at_ms, crash = self._random, START_MS + self._random.randrange(5000), self.crash
        while at_ms < START_MS + length_ms:
            if crash is not None and crash.at_ms <= at_ms < crash.back_ms:
                at_ms = crash.back_ms + rng.randrange(10_000)
            opening = Opening(self._sid("RM"), name, at_ms, at_ms, [])
            for _ in range(rng.randint(1, 3)):
                opening.stays += self._stays_of(f"{name}-{rng.randrange(4)}", opening, length_ms)
            # An identity is connected once at a time: a second connection is a reconnect and replaces the first.
            self._replace_duplicates(opening)
            opening.close_ms = max(stay.end_ms for stay in opening.stays) + rng.choice([0, 0, 2000, 20_000])
            if crash is not None and opening.open_ms <= crash.at_ms < opening.close_ms:
                self._interrupt(opening, crash)
            yield opening
            at_ms = max(opening.close_ms, at_ms) + rng.choice([1, 1000, 30_000, 300_000])
            if opening.crashed and opening.close_ms == NEVER:
                return  # Redis never deletes this room
            if opening.crashed and crash is not None:
                at_ms = max(at_ms, crash.back_ms + 1)

    def _stays_of(self, identity: str, opening: Opening, length_ms: int) -> Iterator[SimulatedStay]:
        rng = self._random
        joined_ms = opening.open_ms + rng.choice([0, rng.randrange(max(1, length_ms // 2))])
        for _ in range(rng.choice([1, 1, 2, 3])):
            end_ms = joined_ms + rng.choice([0, 300, 900, 4000, rng.randrange(length_ms), rng.randrange(length_ms)])
            active_ms = joined_ms + rng.choice([0, 200, 1500])
            stay = SimulatedStay(self._sid("PA"), identity, rng.choice(_KINDS), joined_ms, end_ms, active_ms, [])
            if active_ms > end_ms:
                stay.active_ms = None
            else:
                stay.tracks = [self._track(active_ms, end_ms) for _ in range(rng.randint(0, 2))]
            yield stay
            joined_ms = end_ms + rng.choice([-200, 0, 50, 5000, 60_000])

    def _track(self, from_ms: int, to_ms: int) -> tuple[str, str, str, int, int]:
        rng = self._random
        on_ms = rng.randint(from_ms, to_ms)
        off_ms = rng.choice([to_ms, rng.randint(on_ms, to_ms)])
        kind, source = rng.choice([("VIDEO", "CAMERA"), ("VIDEO", "SCREEN_SHARE"), ("AUDIO", "MICROPHONE")])
        return self._sid("TR"), kind, source, on_ms, off_ms

    def _replace_duplicates(self, opening: Opening) -> None:
        """End an older connection of the same identity a moment after the new one began."""
        for stay in opening.stays:
            later = [s for s in opening.stays if s.identity == stay.identity and s.joined_ms > stay.joined_ms]
            for other in later:
                _cut(stay, other.joined_ms + 150)
        opening.stays = [stay for stay in opening.stays if stay.end_ms >= stay.joined_ms]
        seen: dict[tuple[str, int], SimulatedStay] = {(s.identity, s.joined_ms): s for s in opening.stays}
        opening.stays = list(seen.values())

    def _interrupt(self, opening: Opening, crash: Crash) -> None:
        opening.crashed = True
        rng = self._random
        for stay in opening.stays:
            if stay.joined_ms < crash.at_ms < stay.end_ms:
                _cut(stay, crash.at_ms)
                stay.crashed = True
        before = [stay for stay in opening.stays if stay.joined_ms < crash.at_ms]
        after = [stay for stay in opening.stays if stay.joined_ms >= crash.at_ms]
        opening.stays = before
        if not crash.redis:
            opening.close_ms = crash.at_ms
        elif after:
            # A participant reconnects to the stored room.
            shift = crash.back_ms + rng.randrange(60_000) - min(stay.joined_ms for stay in after)
            for stay in after:
                _shift(stay, max(0, shift))
            opening.stays += after
            opening.served_again_ms = min(stay.joined_ms for stay in after)
            opening.close_ms = max(stay.end_ms for stay in after)
        else:
            opening.close_ms = NEVER

    def stays(self) -> Iterator[tuple[Opening, SimulatedStay]]:
        for opening in self.openings:
            for stay in opening.stays:
                yield opening, stay

    def webhooks(self) -> list[tuple[int, Event]]:
        """Return (sent at, event) in ascending order, without event ids."""
        sent: list[tuple[int, Event]] = []
        for opening in self.openings:
            room = {
                "sid": opening.sid,
                "name": opening.name,
                "creationTime": str(opening.open_ms // 1000),
                "creationTimeMs": str(opening.open_ms),
            }
            brief = {"sid": opening.sid, "name": opening.name}
            sent.append((opening.open_ms, {"event": "room_started", "room": room}))
            if opening.served_again_ms != NEVER:
                sent.append((opening.served_again_ms, {"event": "room_started", "room": room}))
            if opening.close_ms != NEVER and not (opening.crashed and opening.served_again_ms == NEVER):
                sent.append((opening.close_ms, {"event": "room_finished", "room": room}))
            for stay in opening.stays:
                sent += _webhooks_of(stay, room, brief)
        return sorted(sent, key=lambda pair: pair[0])

    def listing(self, at_ms: int) -> Listing | None:
        """Return what LiveKit lists at ``at_ms``, or None while it is down."""
        if self.crash is not None and self.crash.at_ms <= at_ms < self.crash.back_ms:
            return None
        rooms = {}
        for opening in self.openings:
            if opening.open_ms <= at_ms < opening.close_ms:
                info = RoomInfo(
                    sid=opening.sid,
                    name=opening.name,
                    creation_time=opening.open_ms // 1000,
                    creation_time_ms=opening.open_ms,
                )
                people: dict[str, ListedParticipant] = {}
                for stay in sorted(opening.stays, key=lambda s: s.joined_ms):
                    if stay.joined_ms <= at_ms and (at_ms < stay.end_ms or self._is_ghost(stay)):
                        people[stay.identity] = _info(stay, min(at_ms, stay.end_ms - 1))
                rooms[opening.name] = RoomListing(info, at_ms, {person.sid: person for person in people.values()})
        return Listing(at_ms, rooms)

    def _is_ghost(self, stay: SimulatedStay) -> bool:
        return stay.crashed and self.crash is not None and self.crash.redis

    def serves_participant(self, sid: str, at_ms: int) -> bool:
        return any(stay.sid == sid and stay.joined_ms <= at_ms < stay.end_ms for _, stay in self.stays())

    def serves_room(self, name: str, at_ms: int) -> bool:
        return any(
            opening.name == name
            and opening.open_ms <= at_ms < opening.close_ms
            and (
                self.crash is None
                or not opening.crashed
                or at_ms < self.crash.at_ms
                or at_ms >= opening.served_again_ms
            )
            for opening in self.openings
        )


def _cut(stay: SimulatedStay, end_ms: int) -> None:
    stay.end_ms = min(stay.end_ms, end_ms)
    if stay.active_ms is not None and stay.active_ms > stay.end_ms:
        stay.active_ms, stay.tracks = None, []
    stay.tracks = [
        (sid, kind, source, on, min(off, stay.end_ms)) for sid, kind, source, on, off in stay.tracks if on < stay.end_ms
    ]


def _shift(stay: SimulatedStay, by_ms: int) -> None:
    stay.joined_ms += by_ms
    stay.end_ms += by_ms
    stay.active_ms = None if stay.active_ms is None else stay.active_ms + by_ms
    stay.tracks = [(sid, kind, source, on + by_ms, off + by_ms) for sid, kind, source, on, off in stay.tracks]


def _webhooks_of(stay: SimulatedStay, room: Event, brief: Event) -> Iterator[tuple[int, Event]]:
    who = {"sid": stay.sid, "identity": stay.identity}
    full = {**who, "joinedAt": str(stay.joined_ms // 1000), "joinedAtMs": str(stay.joined_ms), "state": "ACTIVE"}
    if stay.kind != "STANDARD":
        full["kind"] = stay.kind
    if stay.active_ms is not None:
        yield stay.active_ms, {"event": "participant_joined", "room": room, "participant": full}
    for sid, kind, source, on, off in stay.tracks:
        track = {"sid": sid, "type": kind, "source": source}
        yield on, {"event": "track_published", "room": brief, "participant": who, "track": track}
        if not (stay.crashed and off == stay.end_ms):
            yield off, {"event": "track_unpublished", "room": brief, "participant": who, "track": track}
    if not stay.crashed:
        ending = "connection_aborted" if stay.active_ms is None else "left"
        yield stay.end_ms, {"event": f"participant_{ending}", "room": room, "participant": full}


def _info(stay: SimulatedStay, at_ms: int) -> ListedParticipant:
    active = stay.active_ms is not None and stay.active_ms <= at_ms
    return ListedParticipant(
        sid=stay.sid,
        identity=stay.identity,
        kind=stay.kind,
        state="ACTIVE" if active else "JOINED",
        joined_at=stay.joined_ms // 1000,
        joined_at_ms=stay.joined_ms,
        tracks=tuple(
            TrackInfo(sid=sid, type=kind, source=source)
            for sid, kind, source, on, off in stay.tracks
            if on <= at_ms < off
        ),
    )
