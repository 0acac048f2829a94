"""Call LiveKit's room service: list rooms and participants, and change them.

Requests and answers are livekit-api's protobuf messages. Its Twirp client sends them over one pooled session for each
process. Room names are LiveKit's. Each call carries its own short-lived token. Failures are raised as errors of
``shared/errors``.

Behaviour of livekit-server v1.13.5, from its source and from tests against it: bad credentials give a 401 in plain text that
repeats the token; ListParticipants of a room that does not exist gives an empty list; changing a room or participant that no
node hosts (mute, send data) gives a 503 "unavailable" after three seconds; CreateRoom of an open room changes nothing and
returns it.
"""

from collections.abc import Iterable
from typing import Any, Final, Self

import aiohttp
from google.protobuf.message import Message
from livekit.api.twirp_client import ServerErrorCode
from livekit.protocol import agent_dispatch, egress, ingress, models, room

from shared.errors import (
    LiveKitAnswerTooLarge,
    LiveKitFailed,
    LiveKitServiceAbsent,
    LiveKitTimedOut,
    ParticipantNotFound,
    RelayError,
    RoomNotFound,
    TrackNotFound,
)
from shared.infra.clock import Clock
from shared.infra.ids import parse_livekit_room
from shared.livekit.access_token import TokenSigner
from shared.livekit.bounded_answers import BoundedAnswers
from shared.livekit.twirp_calls import TwirpCalls

CONNECT_TIMEOUT_S: Final = 2.0
TOTAL_TIMEOUT_S: Final = 8.0
# Added to the size of each page of a listing, so that empty pages count too.
_PAGE_BYTES = 16 * 1024

_ROOMS, _EGRESS, _INGRESS, _DISPATCH = "RoomService", "Egress", "Ingress", "AgentDispatchService"


class RoomService:
    """A client of one LiveKit. Enter it (``async with``) on the event loop that calls it."""

    def __init__(
        self,
        url: str,
        api_key: str,
        api_secret: str,
        clock: Clock,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        answers: BoundedAnswers | None = None,
    ) -> None:
        self._answers = answers or BoundedAnswers()
        timeout = aiohttp.ClientTimeout(total=total_timeout_s, sock_connect=connect_timeout_s)
        self._livekit = TwirpCalls(url, TokenSigner(api_key, api_secret), clock, timeout, self._answers)

    async def __aenter__(self) -> Self:
        await self._livekit.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._livekit.close()

    async def list_rooms(self, names: Iterable[str] | None = None) -> list[models.Room]:
        """Return all rooms of this LiveKit, or those of ``names`` that exist.

        ``num_participants`` can lag behind or be wrong.
        """
        wanted = None if names is None else list(names)
        if wanted == []:
            return []  # LiveKit treats an empty list as all names
        request = room.ListRoomsRequest(names=wanted)
        answer = await self._livekit.call_with_retry(
            _ROOMS, "ListRooms", request, {"roomList": True}, room.ListRoomsResponse
        )
        return list(answer.rooms)

    async def get_room(self, name: str) -> models.Room:
        """Return an open room. Raises ``RoomNotFound``."""
        for found in await self.list_rooms([name]):
            if found.name == name:
                return found
        raise RoomNotFound(display_name(name))

    async def create_room(self, request: room.CreateRoomRequest) -> models.Room:
        """Return the new room, or the open room of this name, unchanged."""
        return await self._livekit.call(_ROOMS, "CreateRoom", request, {"roomCreate": True}, models.Room)

    async def delete_room(self, name: str) -> None:
        """End a room and disconnect everyone in it. Raises ``RoomNotFound``."""
        request = room.DeleteRoomRequest(room=name)
        missing = RoomNotFound(display_name(name))
        await self._livekit.call(_ROOMS, "DeleteRoom", request, {"roomCreate": True}, room.DeleteRoomResponse, missing)

    async def update_room_metadata(self, name: str, metadata: str) -> models.Room:
        """Replace the metadata of a room. Raises ``RoomNotFound``."""
        request = room.UpdateRoomMetadataRequest(room=name, metadata=metadata)
        missing = RoomNotFound(display_name(name))
        return await self._livekit.call(_ROOMS, "UpdateRoomMetadata", request, _admin(name), models.Room, missing)

    async def list_participants(self, name: str) -> list[models.ParticipantInfo]:
        """Return everyone in a room, including hidden participants, agents and recorders.

        Empty for a room that does not exist.
        """
        request = room.ListParticipantsRequest(room=name)
        missing = RoomNotFound(display_name(name))
        answer_type = room.ListParticipantsResponse
        answer = await self._livekit.call_with_retry(
            _ROOMS, "ListParticipants", request, _admin(name), answer_type, missing
        )
        return list(answer.participants)

    async def get_participant(self, name: str, identity: str) -> models.ParticipantInfo:
        """Return a participant. Raises ``ParticipantNotFound``."""
        request = room.RoomParticipantIdentity(room=name, identity=identity)
        missing = ParticipantNotFound(display_name(name), identity)
        return await self._livekit.call_with_retry(
            _ROOMS, "GetParticipant", request, _admin(name), models.ParticipantInfo, missing
        )

    async def remove_participant(self, name: str, identity: str) -> None:
        """Disconnect a participant. Raises ``ParticipantNotFound``.

        The participant can rejoin with a token that is still valid.
        """
        request = room.RoomParticipantIdentity(room=name, identity=identity)
        missing = ParticipantNotFound(display_name(name), identity)
        answer_type = room.RemoveParticipantResponse
        await self._livekit.call(_ROOMS, "RemoveParticipant", request, _admin(name), answer_type, missing)

    async def update_participant(self, request: room.UpdateParticipantRequest) -> models.ParticipantInfo:
        """Change a participant.

        LiveKit leaves the name or metadata unchanged if it is empty, deletes an attribute that is empty, and replaces the
        permission as a whole. Raises ``ParticipantNotFound``.
        """
        missing = ParticipantNotFound(display_name(request.room), request.identity)
        admin = _admin(request.room)
        return await self._livekit.call(_ROOMS, "UpdateParticipant", request, admin, models.ParticipantInfo, missing)

    async def mute_track(self, name: str, identity: str, track_sid: str, muted: bool) -> models.TrackInfo:
        """Mute or unmute a track.

        Get the participant first: LiveKit takes three seconds to fail for a missing one. Raises ``TrackNotFound``, and
        ``LiveKitRefusedState`` for unmuting if LiveKit's configuration forbids it.
        """
        request = room.MuteRoomTrackRequest(room=name, identity=identity, track_sid=track_sid, muted=muted)
        missing = TrackNotFound(display_name(name), identity, track_sid)
        answer_type = room.MuteRoomTrackResponse
        answer = await self._livekit.call(_ROOMS, "MutePublishedTrack", request, _admin(name), answer_type, missing)
        if not answer.HasField("track"):
            raise missing  # LiveKit answers without a track instead of an error
        return answer.track

    async def send_data(self, request: room.SendDataRequest) -> None:
        """Send data to the named identities that are in the room, or to everybody.

        Get the room first: LiveKit takes three seconds to fail for a missing room.
        """
        missing = RoomNotFound(display_name(request.room))
        await self._livekit.call(_ROOMS, "SendData", request, _admin(request.room), room.SendDataResponse, missing)

    async def list_egress(self, name: str = "", *, active: bool = True) -> list[egress.EgressInfo]:
        """Return the egresses of one room or, without ``name``, of all rooms.

        Empty if LiveKit runs without an egress service.
        """
        items: list[egress.EgressInfo] = []
        request = egress.ListEgressRequest(room_name=name, active=active)
        size = 0
        try:
            while True:
                answer = await self._livekit.call_with_retry(
                    _EGRESS, "ListEgress", request, {"roomRecord": True}, egress.ListEgressResponse
                )
                items += answer.items
                size = self._size_with(size, answer)
                if not answer.next_page_token.token:
                    return items
                request.page_token.CopyFrom(answer.next_page_token)
        except LiveKitServiceAbsent:
            return []

    async def list_ingress(self, name: str = "") -> list[ingress.IngressInfo]:
        """Return the ingresses of one room or, without ``name``, of all rooms.

        Empty if LiveKit runs without an ingress service.
        """
        items: list[ingress.IngressInfo] = []
        request = ingress.ListIngressRequest(room_name=name)
        grant = {"ingressAdmin": True}
        size = 0
        try:
            while True:
                answer = await self._livekit.call_with_retry(
                    _INGRESS, "ListIngress", request, grant, ingress.ListIngressResponse
                )
                items += answer.items
                size = self._size_with(size, answer)
                if not answer.next_page_token.token:
                    return items
                request.page_token.CopyFrom(answer.next_page_token)
        except LiveKitServiceAbsent:
            return []

    def _size_with(self, size: int, page: Message) -> int:
        """Return the size of a listing with one more page.

        All pages together are limited like one answer. An empty page counts too, so that endless pages reach the limit.
        """
        size += page.ByteSize() + _PAGE_BYTES
        if size > self._answers.max_bytes:
            raise LiveKitAnswerTooLarge
        return size

    async def serves_participant(self, name: str, identity: str) -> bool:
        """Return whether the node that hosts this participant answers for it. False takes seconds.

        The list of participants survives a crash of the node, but this request reaches the node itself. No plain query does
        that, so it is a change of no subscriptions, which has no effect (pkg/rtc/room.go, UpdateSubscriptions).
        """
        request = room.UpdateSubscriptionsRequest(room=name, identity=identity)
        missing = ParticipantNotFound(display_name(name), identity)
        return await self._is_served(
            _ROOMS, "UpdateSubscriptions", request, _admin(name), room.UpdateSubscriptionsResponse, missing
        )

    async def serves_room(self, name: str) -> bool:
        """Return whether a node answers for this room. False takes seconds."""
        request = agent_dispatch.ListAgentDispatchRequest(room=name)
        answer_type = agent_dispatch.ListAgentDispatchResponse
        return await self._is_served(_DISPATCH, "ListDispatch", request, _admin(name), answer_type, RoomNotFound(name))

    async def _is_served(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Message],
        missing: RelayError,
    ) -> bool:
        """Send a request and return whether a node answered it."""
        try:
            await self._livekit.call(service, method, request, grants, answer_type, missing)
        except (type(missing), LiveKitTimedOut):
            return False
        except LiveKitFailed as error:
            if error.livekit_code != ServerErrorCode.UNAVAILABLE:
                raise
            return False
        return True


def _admin(name: str) -> dict[str, Any]:
    return {"roomAdmin": True, "room": name}


def display_name(name: str) -> str:
    """Return a room's name within its project, or LiveKit's name if the room belongs to no project."""
    parsed = parse_livekit_room(name)
    return name if parsed is None else parsed.display
