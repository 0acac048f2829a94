"""Manage the rooms and participants of a project through LiveKit's room service."""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import TypeVar

from livekit.protocol import models, room
from msgspec import UNSET, UnsetType

from services.api.http.cursors import read_cursor, write_cursor
from services.api.participants.schemas import (
    MutedTracks,
    MuteTracks,
    ParticipantAnswer,
    ParticipantPage,
    PermissionChange,
    UpdateParticipant,
)
from services.api.rooms.answers import LIVEKIT_SOURCE, participant_answer, room_answer, room_details, track_answer
from services.api.rooms.recorded_acts import END_ROOM, REMOVE_PARTICIPANT, RecordedActs
from services.api.rooms.schemas import (
    MAX_DATA_BYTES,
    CreateRoom,
    RoomAnswer,
    RoomDetails,
    RoomPage,
    SendData,
    UpdateRoom,
)
from shared.errors import InvalidRequest, ParticipantNotFound, RoomNotFound, TrackNotFound
from shared.infra.ids import Mode, livekit_room, parse_livekit_room
from shared.livekit.room_service import RoomService
from shared.models.names import MAX_LIVEKIT_NAME_BYTES

# LiveKit's default limits are 64 KiB for attributes and 512 KiB for metadata. A token holds at most this too.
MAX_METADATA_BYTES = 64_000

T = TypeVar("T")


class ProjectRooms:
    """The rooms of one project in one mode. Converts room names between the project's and LiveKit's form.

    Methods raise ``LiveKitError``, ``RoomNotFound``, ``ParticipantNotFound`` and ``TrackNotFound``.
    """

    def __init__(self, livekit: RoomService, acts: RecordedActs) -> None:
        self._livekit, self._acts = livekit, acts
        self.project_id: str = acts.project_id
        self.mode: Mode = acts.mode

    def _name(self, display: str) -> str:
        """Return LiveKit's name of a room. Raises ``RoomNotFound`` for an empty or too long name."""
        name = livekit_room(self.project_id, self.mode, display)
        if not display or len(name.encode()) > MAX_LIVEKIT_NAME_BYTES:
            raise RoomNotFound(display)
        return name

    async def open_rooms(self, limit: int | None, cursor: str | None) -> RoomPage:
        """List the open rooms by name. Raises ``InvalidRequest`` too."""
        # LiveKit has no pages and lists the rooms of every project, so this project's rooms are selected here.
        listing = ("rooms",)
        after = _after(cursor, listing)
        rooms: dict[str, models.Room] = {}
        for found in await self._livekit.list_rooms():
            parsed = parse_livekit_room(found.name)
            if parsed is not None and parsed[:2] == (self.project_id, self.mode):
                rooms[parsed.display] = found
        names, following = page(sorted(rooms), str, listing, limit, after)
        return RoomPage(rooms=[room_answer(rooms[name], name) for name in names], next_cursor=following)

    async def create(self, request: CreateRoom) -> RoomAnswer:
        """Open a room, or return the open room of this name unchanged."""
        livekit_request = room.CreateRoomRequest(
            name=self._name(request.name),
            max_participants=request.max_participants or 0,
            empty_timeout=request.empty_timeout or 0,
            departure_timeout=request.departure_timeout or 0,
            metadata=request.metadata or "",
        )
        return room_answer(await self._livekit.create_room(livekit_request), request.name)

    async def get(self, name: str) -> RoomDetails:
        found, people = await self._room_and_people(name)
        return room_details(found, name, people)

    async def end(self, name: str) -> None:
        """End a room and record it in the audit log. Raises ``StoreUnavailable`` too."""
        livekit_name = self._name(name)
        async with self._acts.recorded(END_ROOM, name):
            await self._livekit.delete_room(livekit_name)

    async def update(self, name: str, request: UpdateRoom) -> RoomAnswer:
        return room_answer(await self._livekit.update_room_metadata(self._name(name), request.metadata), name)

    async def participants(self, name: str, limit: int | None, cursor: str | None) -> ParticipantPage:
        listing = ("participants", name)
        after = _after(cursor, listing)
        _, people = await self._room_and_people(name)
        shown, following = page(people, lambda person: person.identity, listing, limit, after)
        return ParticipantPage(participants=[participant_answer(person) for person in shown], next_cursor=following)

    async def participant(self, name: str, identity: str) -> ParticipantAnswer:
        return participant_answer(await self._person(name, identity))

    async def remove(self, name: str, identity: str) -> None:
        """Disconnect a participant and record it in the audit log. Raises ``StoreUnavailable`` too."""
        livekit_name = self._name(name)
        async with self._acts.recorded(REMOVE_PARTICIPANT, identity, f"room {name}"):
            await self._livekit.remove_participant(livekit_name, identity)

    async def update_participant(self, name: str, identity: str, request: UpdateParticipant) -> ParticipantAnswer:
        """Change a participant. Raises ``InvalidRequest`` too, also for a request without a change."""
        if request == UpdateParticipant():
            raise InvalidRequest("Send at least one of `name`, `metadata`, `attributes` and `permission`.")
        _check_size("metadata", len((request.metadata or "").encode()))
        attributes = request.attributes or {}
        _check_size("attributes", sum(len(k.encode()) + len(v.encode()) for k, v in attributes.items()))
        permission = None
        if request.permission is not None:
            # LiveKit replaces the whole permission, so the unchanged grants are sent too.
            permission = _changed((await self._person(name, identity)).permission, request.permission)
        livekit_request = room.UpdateParticipantRequest(
            room=self._name(name),
            identity=identity,
            name=request.name or "",
            metadata=request.metadata or "",
            attributes=attributes,
            permission=permission,
        )
        return participant_answer(await self._livekit.update_participant(livekit_request))

    async def mute(self, name: str, identity: str, request: MuteTracks) -> MutedTracks:
        """Mute or unmute the chosen tracks."""
        tracks = (await self._person(name, identity)).tracks
        if request.track_sid is not None:
            chosen = [track for track in tracks if track.sid == request.track_sid]
        elif request.source is not None:
            chosen = [track for track in tracks if track.source == LIVEKIT_SOURCE[request.source]]
        else:
            chosen = [track for track in tracks if track.type != models.TrackType.DATA]
        named = request.track_sid or request.source
        if named is not None and not chosen:
            raise TrackNotFound(name, identity, named)
        muted = [
            await self._livekit.mute_track(self._name(name), identity, track.sid, request.muted) for track in chosen
        ]
        return MutedTracks(tracks=[track_answer(track) for track in muted])

    async def send(self, name: str, request: SendData) -> None:
        """Send data to participants. Raises ``InvalidRequest`` too."""
        payload = _payload(request)
        # For a room that is not open, SendData would answer "unavailable" after three seconds.
        await self._livekit.get_room(self._name(name))
        livekit_request = room.SendDataRequest(
            room=self._name(name),
            data=payload,
            kind=models.DataPacket.Kind.RELIABLE if request.kind == "reliable" else models.DataPacket.Kind.LOSSY,
            destination_identities=request.destination_identities,
            topic=request.topic,
        )
        await self._livekit.send_data(livekit_request)

    async def _room_and_people(self, name: str) -> tuple[models.Room, list[models.ParticipantInfo]]:
        """Return a room and its participants by identity, without those that are listed as disconnected."""
        found, people = await asyncio.gather(
            self._livekit.get_room(self._name(name)), self._livekit.list_participants(self._name(name))
        )
        gone = models.ParticipantInfo.State.DISCONNECTED
        return found, sorted((p for p in people if p.state != gone), key=lambda person: person.identity)

    async def _person(self, name: str, identity: str) -> models.ParticipantInfo:
        found = await self._livekit.get_participant(self._name(name), identity)
        if found.state == models.ParticipantInfo.State.DISCONNECTED:
            raise ParticipantNotFound(name, identity)
        return found


def _changed(current: models.ParticipantPermission, change: PermissionChange) -> models.ParticipantPermission:
    changed = models.ParticipantPermission()
    changed.CopyFrom(current)
    if change.can_publish is not UNSET:
        changed.can_publish = change.can_publish
    if change.can_subscribe is not UNSET:
        changed.can_subscribe = change.can_subscribe
    if change.can_publish_data is not UNSET:
        changed.can_publish_data = change.can_publish_data
    if change.can_update_own_metadata is not UNSET:
        changed.can_update_metadata = change.can_update_own_metadata
    if change.hidden is not UNSET:
        changed.hidden = change.hidden
    if change.can_publish_sources is not UNSET:
        del changed.can_publish_sources[:]
        changed.can_publish_sources.extend(LIVEKIT_SOURCE[source] for source in change.can_publish_sources or ())
    return changed


def _payload(request: SendData) -> bytes:
    if request.encoding == "utf8":
        payload = request.data.encode()
    else:
        try:
            payload = b64decode(request.data, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("`data` is not base64. Encode it, or send `encoding` as `utf8`.", "data") from None
    if len(payload) > MAX_DATA_BYTES:
        raise InvalidRequest(f"`data` is {len(payload)} bytes long. Send at most {MAX_DATA_BYTES}.", "data")
    return payload


def page(
    items: list[T], key: Callable[[T], str], listing: Sequence[str], limit: int | None, after: str | None
) -> tuple[list[T], str | UnsetType]:
    """Return a page of ordered ``items`` and the next cursor.

    The page has at most ``limit`` items, with keys greater than ``after``. ``listing`` identifies the listing in the cursor.
    The cursor holds the last key of the page, so pages stay correct while items are added and removed.
    """
    if after is not None:
        items = [item for item in items if key(item) > after]
    if limit is None or len(items) <= limit:
        return items, UNSET
    shown = items[:limit]
    return shown, write_cursor(listing, (key(shown[-1]),))


def _check_size(param: str, size: int) -> None:
    """Check a size in bytes. Raises ``InvalidRequest``."""
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(f"`{param}` is {size} bytes long. LiveKit accepts at most {MAX_METADATA_BYTES}.", param)


def _after(cursor: str | None, listing: Sequence[str]) -> str | None:
    """Return the key after which the page begins. Raises ``InvalidRequest``."""
    position = read_cursor(cursor, listing, (str,))
    return None if position is None else str(position[0])
