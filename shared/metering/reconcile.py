"""Compare stored sessions with LiveKit's listings and decide the corrections.

The functions are pure, so that their laws can be tested with thousands of inputs. shared/ledger/reconcile.py asks LiveKit and
calls this module. Corrections become Relay's own events, which go through the same fold as LiveKit's, so the stored events
prove every minute. Three rules prevent wrong corrections:

- A failed request proves nothing: no participant of that room counts as confirmed or missing.
- A missing participant is closed at its last confirmation, and only if it is missing twice, ``GRACE_MS`` apart, or once
  before the room's end is reported. LiveKit's listing lags just after a join. An identity that connects again can be absent
  for a moment (pkg/service/roommanager.go: the end of the old connection deletes the entry that by then belongs to the new
  one).
- A listed participant may be gone. LiveKit stores its list in Redis without an expiry, and a crash leaves everyone in it
  (pkg/service/redisstore.go). So a listing counts for ``PROVE_AFTER_MS`` after the last real sign of life. After that, the node
  that serves the participant has to answer for it (``to_prove``). A participant for which no node answers is not confirmed.
  After two such requests it ends at its last real sign of life.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from shared.infra.ids import livekit_room
from shared.metering.observe import GONE, SEEN, TRACK_GONE
from shared.metering.state import EndedBy, Session, Track, keeps_track
from shared.metering.usage import is_running, last_sign_of, start_of
from shared.models.livekit_event import ListedParticipant, OwnEvent, Reconciled, RoomInfo, TrackInfo

# The least time between two listings that both lack a participant. LiveKit's listing lags by less.
GRACE_MS = 15_000
# A join more recent than this is ignored, because its webhook is still on its way.
SETTLE_MS = 5_000
PROVE_AFTER_MS = 300_000
# Requests to nodes in one pass. The other listings count until the next pass.
PROOFS_A_PASS = 2000

# The result of asking for a listed participant. "here": its node answered for it. "gone": a node has the room but not the
# participant. "unknown": no node answered for either. A participant is closed only after ``PROVE_AFTER_MS`` of "unknown".
Verdict = Literal["here", "gone", "unknown"]


class RoomListing(NamedTuple):
    """One room as LiveKit lists it.

    ``asked_ms``: unix ms, taken before its participants were requested. ``people``: by sid; None if that request failed.
    """

    info: RoomInfo
    asked_ms: int
    people: Mapping[str, ListedParticipant] | None


class Listing(NamedTuple):
    """All rooms of all projects by LiveKit's name. ``started_ms``: when the list of rooms was requested."""

    started_ms: int
    rooms: Mapping[str, RoomListing]


class Known(NamedTuple):
    """A stored session. ``confirmed_ms``: when LiveKit last listed it.

    ``ended_by`` is None for an open session.
    """

    session: Session
    confirmed_ms: int | None
    ended_by: EndedBy | None = None


class Absence(NamedTuple):
    """A participant or track that is missing since ``since_ms``.

    ``seen_ms``: the last confirmation, if any.
    """

    since_ms: int
    seen_ms: int | None


class Proof(NamedTuple):
    """When the participant's node was last asked for it, and when it last answered (unix ms)."""

    asked_ms: int
    answered_ms: int | None


class Question(NamedTuple):
    """A participant for which its node has to answer."""

    sid: str
    room: str
    identity: str


class Findings(msgspec.Struct):
    """The result of a pass.

    ``absences``, by (sid, track sid or ''), replaces the stored ones. ``confirmed``: when each session was listed (unix ms).
    """

    events: list[OwnEvent] = []
    confirmed: dict[str, int] = {}
    absences: dict[tuple[str, str], Absence] = {}
    opened: int = 0
    corrected: int = 0
    closed: int = 0


def to_prove(
    listing: Listing,
    known: Mapping[str, Known],
    proofs: Mapping[str, Proof],
    absences: Mapping[tuple[str, str], Absence],
) -> tuple[list[Question], dict[str, Verdict]]:
    """Return the listed participants whose node must be asked now, and those that stay unknown.

    The participant that was asked longest ago comes first. Participants for which no node answered a moment ago stay unknown
    without another request.
    """
    questions: list[tuple[int, Question]] = []
    unknown: dict[str, Verdict] = {}
    for name, room in listing.rooms.items():
        for sid, person in (room.people or {}).items():
            entry, proof = known.get(sid), proofs.get(sid)
            if person.state != "ACTIVE" or (entry and entry.ended_by not in (None, "reconciled")):
                continue
            alive_ms = last_life(person, entry, proof)
            if listing.started_ms - alive_ms <= PROVE_AFTER_MS and not (entry and entry.ended_by):
                continue
            asked_ms = proof.asked_ms if proof is not None else 0
            # A missing participant is asked again in every pass, because these requests decide.
            asked_lately = asked_ms > alive_ms and listing.started_ms - asked_ms < PROVE_AFTER_MS
            if asked_lately and (sid, "") not in absences:
                unknown[sid] = "unknown"
            else:
                questions.append((asked_ms, Question(sid, name, person.identity)))
    questions.sort()
    return [question for _, question in questions[:PROOFS_A_PASS]], unknown


def last_life(person: ListedParticipant, entry: Known | None, proof: Proof | None) -> int:
    """Return when something other than the listing last showed that a participant is connected (unix ms)."""
    signs = [person.joined_at_ms or person.joined_at * 1000]
    if entry is not None and (start_ms := start_of(entry.session)) is not None:
        signs.append(last_sign_of(entry.session, start_ms))
    if proof is not None and proof.answered_ms is not None:
        signs.append(proof.answered_ms)
    return max(signs)


def decide(
    listing: Listing,
    known: Mapping[str, Known],
    absences: Mapping[tuple[str, str], Absence],
    verdicts: Mapping[str, Verdict],
    proofs: Mapping[str, Proof],
) -> Findings:
    """Return the corrections.

    ``known``: every open session, and the other stored sessions of participants that are listed or missing.
    """
    found = Findings()
    for (sid, track), absence in absences.items():
        entry = known.get(sid)
        if not track and entry is not None and entry.ended_by in ("room_finished", "reconciled"):
            found.events.append(_gone_with_room(entry.session, absence))
            found.corrected += 1
    for sid, one in known.items():
        if one.ended_by is None and (room := _room_name(one.session)) is not None:
            _judge_open(found, listing, room, sid, one, absences, verdicts, proofs)
    for room_listing in listing.rooms.values():
        for sid, person in (room_listing.people or {}).items():
            here = person.state == "ACTIVE" and verdicts.get(sid, "here") == "here"
            if here and _is_missing(listing, room_listing, person, known.get(sid)):
                found.events.append(seen_event(room_listing, person))
                found.opened += 1
    return found


def _gone_with_room(session: Session, absence: Absence) -> OwnEvent:
    """Return the event for a session that was missing once before its room's end was reported.

    A successor of the room reports its end too. The participant was gone before that.
    """
    return gone_event(GONE, session, _room_name(session) or "", absence)


def _room_name(session: Session) -> str | None:
    if session.project_id is None or session.mode is None or session.room is None:
        return None
    return livekit_room(session.project_id, session.mode, session.room)


def _is_missing(listing: Listing, room: RoomListing, person: ListedParticipant, entry: Known | None) -> bool:
    """Return whether a connected participant has no open session: no event came, or it was closed early.

    A session of an earlier room of this name was not closed early: LiveKit lists participants by room name.
    """
    if entry is not None:
        return entry.ended_by == "reconciled" and entry.session.room_sid in (None, room.info.sid)
    joined_ms = person.joined_at_ms or person.joined_at * 1000
    return 0 < joined_ms <= listing.started_ms - SETTLE_MS


def _judge_open(
    found: Findings,
    listing: Listing,
    room_name: str,
    sid: str,
    entry: Known,
    absences: Mapping[tuple[str, str], Absence],
    verdicts: Mapping[str, Verdict],
    proofs: Mapping[str, Proof],
) -> None:
    room = listing.rooms.get(room_name)
    asked_ms = room.asked_ms if room is not None else listing.started_ms
    if room is not None and room.people is None:
        found.absences.update({key: absence for key, absence in absences.items() if key[0] == sid})
        return
    person = room.people.get(sid) if room is not None and room.people is not None else None
    verdict = verdicts.get(sid, "here")
    start_ms = start_of(entry.session)
    if room is not None and person is not None and person.state != "DISCONNECTED" and verdict == "here":
        found.confirmed[sid] = asked_ms
        _judge_tracks(found, listing, room, person, entry, absences)
        return
    if start_ms is None or start_ms >= listing.started_ms:
        return
    seen_ms = entry.confirmed_ms
    if person is not None:  # It is listed but no node has it, so the listing does not confirm it.
        seen_ms = last_life(person, entry, proofs.get(sid))
    absence = absences.get((sid, "")) or Absence(asked_ms, seen_ms)
    wait_ms = PROVE_AFTER_MS if verdict == "unknown" else GRACE_MS
    if asked_ms - absence.since_ms < wait_ms:
        found.absences[sid, ""] = absence
        return
    found.events.append(gone_event(GONE, entry.session, room_name, absence))
    found.closed += 1


def _judge_tracks(
    found: Findings,
    listing: Listing,
    room: RoomListing,
    person: ListedParticipant,
    entry: Known,
    absences: Mapping[tuple[str, str], Absence],
) -> None:
    session, listed = entry.session, {track.sid for track in person.tracks}
    lacks_join = session.joined_ms is None and bool(person.joined_at_ms or person.joined_at)
    if person.state == "ACTIVE" and (lacks_join or session.kind is None or _unknown_tracks(session, listed)):
        found.events.append(seen_event(room, person))
        found.corrected += 1
    for sid, track in session.tracks.items():
        if sid in listed or not is_running(track):
            continue
        if track.published_ms is None or track.published_ms >= listing.started_ms:
            continue
        absence = absences.get((session.sid, sid)) or Absence(room.asked_ms, entry.confirmed_ms)
        if room.asked_ms - absence.since_ms < GRACE_MS:
            found.absences[session.sid, sid] = absence
        else:
            found.events.append(gone_event(TRACK_GONE, session, room.info.name, absence, sid, track))
            found.corrected += 1


def _unknown_tracks(session: Session, listed: Iterable[str]) -> bool:
    """Return whether a listed track is not known to run.

    A track with an unpublish event is over: the listing lags.
    """
    for sid in listed:
        track = session.tracks.get(sid)
        if track is None and not keeps_track(session, sid):
            continue
        if track is None or (track.unpublished_ms is None and not is_running(track)):
            return True
    return False


def seen_event(room: RoomListing, person: ListedParticipant) -> OwnEvent:
    """Return the event "LiveKit lists this participant". Its id makes a repetition harmless."""
    return OwnEvent(
        event=SEEN,
        id=f"{SEEN}:{person.sid}:{room.asked_ms}",
        created_at=room.asked_ms // 1000,
        room=room.info,
        participant=person,
        relay=Reconciled(seen_ms=room.asked_ms),
    )


def sighting_event(session: Session, room_name: str, over_ms: int, seen_ms: int) -> OwnEvent:
    """Return the event that stores when a participant of a finished room was last listed.

    The room was over by ``over_ms``. It does not contain since when the participant was missing. That follows from the room,
    and a later time here would hide an earlier absence.
    """
    event = gone_event(GONE, session, room_name, Absence(over_ms, seen_ms))
    event.relay = Reconciled(seen_ms=seen_ms)
    return event


def gone_event(
    name: str, session: Session, room_name: str, absence: Absence, track_sid: str = "", track: Track | None = None
) -> OwnEvent:
    """Return the event "LiveKit no longer lists this participant", or "this track"."""
    return OwnEvent(
        event=name,
        id=":".join(filter(None, (name, session.sid, track_sid, str(absence.since_ms)))),
        created_at=absence.since_ms // 1000,
        room=RoomInfo(sid=session.room_sid or "", name=room_name),
        participant=ListedParticipant(sid=session.sid, identity=session.identity or ""),
        track=None if track is None else TrackInfo(sid=track_sid, type=track.type, source=track.source),
        relay=Reconciled(seen_ms=absence.seen_ms or 0, gone_ms=absence.since_ms),
    )
