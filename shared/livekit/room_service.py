"""LiveKit's room service: who is in which room, and the orders that change it.

Requests and answers are livekit-api's protobuf messages, sent by its Twirp client over one pooled session a process; room
names are LiveKit's. Each call carries a token for this call alone. Everything that goes wrong is raised as a fact of
``shared/errors``.

Facts, from the sources of livekit-server v1.13.5 and from asking it: bad credentials are a 401 in plain text that repeats
the token; ListParticipants of a room that does not exist is an empty list; an order to a room or participant that nobody
hosts (mute, send data) is a 503 "unavailable" after three seconds; CreateRoom of a room that is open changes nothing and
answers it.
"""

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Any, Self, TypeVar

import aiohttp
from google.protobuf.message import DecodeError, Message
from livekit.api.twirp_client import ServerError, ServerErrorCode, TwirpClient
from livekit.protocol import agent_dispatch, egress, ingress, models, room

from shared.errors import (
    LiveKitAnswerTooLarge,
    LiveKitCredentialsRefused,
    LiveKitFailed,
    LiveKitRefusedInput,
    LiveKitRefusedState,
    LiveKitServiceAbsent,
    LiveKitTimedOut,
    LiveKitUnreachable,
    ParticipantNotFound,
    RelayError,
    RoomNotFound,
    TrackNotFound,
)
from shared.infra import metrics
from shared.infra.clock import Clock
from shared.infra.ids import parse_livekit_room
from shared.livekit.access_token import TokenSigner
from shared.livekit.bounded_answers import AnswerTooLarge, BoundedAnswers

CONNECT_TIMEOUT_S = 2.0
TOTAL_TIMEOUT_S = 8.0
# LiveKit allows a minute of clock skew; a token is needed for one request.
_TOKEN_TTL_S = 60
_NOT_BEFORE_LEEWAY_S = 10
_MAX_CONNECTIONS = 50
# Shorter than the idle time-out of the proxies one meets (60 s and more), so that no order is sent into a dying connection.
_KEEPALIVE_S = 15.0
_RETRY_WITHIN_S = 0.3
# What a page of a listing counts for at least.
_PAGE_BYTES = 16 * 1024

Answer = TypeVar("Answer", bound=Message)
_ROOMS, _EGRESS, _INGRESS, _DISPATCH = "RoomService", "Egress", "Ingress", "AgentDispatchService"


class RoomService:
    """A client of one LiveKit. Enter it (``async with``) on the event loop that will use it."""

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
        self._url = url
        self._signer = TokenSigner(api_key, api_secret)
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=total_timeout_s, sock_connect=connect_timeout_s)
        self._answers = answers or BoundedAnswers()
        self._session: aiohttp.ClientSession | None = None
        self._twirp: TwirpClient | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, response_class=self._answers.response_class()
        )
        # Its failover repeats orders too, and only against LiveKit's own cloud: what may be repeated is decided here.
        self._twirp = TwirpClient(self._session, self._url, "livekit", failover=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = self._twirp = None

    async def list_rooms(self, names: Iterable[str] | None = None) -> list[models.Room]:
        """All rooms of the whole LiveKit, or those of ``names`` that exist. ``num_participants`` can lag or be wrong."""
        wanted = None if names is None else list(names)
        if wanted == []:
            return []  # to LiveKit no names are all names
        request = room.ListRoomsRequest(names=wanted)
        answer = await self._read(_ROOMS, "ListRooms", request, {"roomList": True}, room.ListRoomsResponse)
        return list(answer.rooms)

    async def get_room(self, name: str) -> models.Room:
        """Raises ``RoomNotFound``."""
        for found in await self.list_rooms([name]):
            if found.name == name:
                return found
        raise RoomNotFound(display_name(name))

    async def create_room(self, request: room.CreateRoomRequest) -> models.Room:
        """The new room, or the one of this name that is open already, unchanged."""
        return await self._order(_ROOMS, "CreateRoom", request, {"roomCreate": True}, models.Room)

    async def delete_room(self, name: str) -> None:
        """Ends a room and disconnects everyone in it. Raises ``RoomNotFound``."""
        request = room.DeleteRoomRequest(room=name)
        missing = RoomNotFound(display_name(name))
        await self._order(_ROOMS, "DeleteRoom", request, {"roomCreate": True}, room.DeleteRoomResponse, missing)

    async def update_room_metadata(self, name: str, metadata: str) -> models.Room:
        """Raises ``RoomNotFound``."""
        request = room.UpdateRoomMetadataRequest(room=name, metadata=metadata)
        missing = RoomNotFound(display_name(name))
        return await self._order(_ROOMS, "UpdateRoomMetadata", request, _admin(name), models.Room, missing)

    async def list_participants(self, name: str) -> list[models.ParticipantInfo]:
        """Everyone in a room: hidden participants, agents and recorders too. Empty for a room that does not exist."""
        request = room.ListParticipantsRequest(room=name)
        missing = RoomNotFound(display_name(name))
        answer_type = room.ListParticipantsResponse
        answer = await self._read(_ROOMS, "ListParticipants", request, _admin(name), answer_type, missing)
        return list(answer.participants)

    async def get_participant(self, name: str, identity: str) -> models.ParticipantInfo:
        """Raises ``ParticipantNotFound``."""
        request = room.RoomParticipantIdentity(room=name, identity=identity)
        missing = ParticipantNotFound(display_name(name), identity)
        return await self._read(_ROOMS, "GetParticipant", request, _admin(name), models.ParticipantInfo, missing)

    async def remove_participant(self, name: str, identity: str) -> None:
        """Disconnects a participant, who can come back with a token that is still valid. Raises ``ParticipantNotFound``."""
        request = room.RoomParticipantIdentity(room=name, identity=identity)
        missing = ParticipantNotFound(display_name(name), identity)
        answer_type = room.RemoveParticipantResponse
        await self._order(_ROOMS, "RemoveParticipant", request, _admin(name), answer_type, missing)

    async def update_participant(self, request: room.UpdateParticipantRequest) -> models.ParticipantInfo:
        """Change a participant.

        LiveKit takes an empty name or metadata for "leave it", an empty attribute for "delete it", and a permission as a
        whole. Raises ``ParticipantNotFound``.
        """
        missing = ParticipantNotFound(display_name(request.room), request.identity)
        admin = _admin(request.room)
        return await self._order(_ROOMS, "UpdateParticipant", request, admin, models.ParticipantInfo, missing)

    async def mute_track(self, name: str, identity: str, track_sid: str, muted: bool) -> models.TrackInfo:
        """Mute or unmute a track.

        Ask for the participant first: for a missing one LiveKit takes three seconds to fail. Raises ``TrackNotFound``, and
        ``LiveKitRefusedState`` for unmuting where LiveKit's configuration forbids it.
        """
        request = room.MuteRoomTrackRequest(room=name, identity=identity, track_sid=track_sid, muted=muted)
        missing = TrackNotFound(display_name(name), identity, track_sid)
        answer_type = room.MuteRoomTrackResponse
        answer = await self._order(_ROOMS, "MutePublishedTrack", request, _admin(name), answer_type, missing)
        if not answer.HasField("track"):
            raise missing  # LiveKit has no error for it
        return answer.track

    async def send_data(self, request: room.SendDataRequest) -> None:
        """Send data to the named identities that are in the room, or to everybody.

        Ask for the room first: for a missing room LiveKit takes three seconds to fail.
        """
        missing = RoomNotFound(display_name(request.room))
        await self._order(_ROOMS, "SendData", request, _admin(request.room), room.SendDataResponse, missing)

    async def list_egress(self, name: str = "", *, active: bool = True) -> list[egress.EgressInfo]:
        """Of one room or, without ``name``, of the whole LiveKit. Empty where LiveKit runs without an egress service."""
        items: list[egress.EgressInfo] = []
        request = egress.ListEgressRequest(room_name=name, active=active)
        size = 0
        try:
            while True:
                answer = await self._read(
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
        """Of one room or, without ``name``, of the whole LiveKit. Empty where LiveKit runs without an ingress service."""
        items: list[ingress.IngressInfo] = []
        request = ingress.ListIngressRequest(room_name=name)
        grant = {"ingressAdmin": True}
        size = 0
        try:
            while True:
                answer = await self._read(_INGRESS, "ListIngress", request, grant, ingress.ListIngressResponse)
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
        """Return whether the node that has this participant answers for it. False after seconds.

        The list of participants survives a crash of the node; this request reaches the node itself. It is an order to
        change no subscription, which changes nothing (pkg/rtc/room.go, UpdateSubscriptions): no plain question goes to the
        node.
        """
        request = room.UpdateSubscriptionsRequest(room=name, identity=identity)
        missing = ParticipantNotFound(display_name(name), identity)
        answer_type = room.UpdateSubscriptionsResponse
        try:
            await self._order(_ROOMS, "UpdateSubscriptions", request, _admin(name), answer_type, missing)
        except (ParticipantNotFound, LiveKitTimedOut):
            return False
        except LiveKitFailed as error:
            if error.livekit_code != ServerErrorCode.UNAVAILABLE:
                raise
            return False
        return True

    async def serves_room(self, name: str) -> bool:
        """Whether a node answers for this room. False after seconds."""
        request = agent_dispatch.ListAgentDispatchRequest(room=name)
        answer_type = agent_dispatch.ListAgentDispatchResponse
        try:
            await self._order(_DISPATCH, "ListDispatch", request, _admin(name), answer_type, RoomNotFound(name))
        except (RoomNotFound, LiveKitTimedOut):
            return False
        except LiveKitFailed as error:
            if error.livekit_code != ServerErrorCode.UNAVAILABLE:
                raise
            return False
        return True

    async def _read(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Answer],
        missing: Exception | None = None,
    ) -> Answer:
        """A question changes nothing, so it is asked a second time where the first found no LiveKit or a failing one."""
        try:
            return await self._order(service, method, request, grants, answer_type, missing)
        except (LiveKitServiceAbsent, LiveKitAnswerTooLarge):
            raise
        except (LiveKitUnreachable, LiveKitFailed):
            await asyncio.sleep(random.uniform(0.1, 1) * _RETRY_WITHIN_S)  # noqa: S311  # spreads load, guards nothing
        return await self._order(service, method, request, grants, answer_type, missing)

    async def _order(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Answer],
        missing: Exception | None = None,
    ) -> Answer:
        """Sent once: an order whose answer was lost may have been carried out."""
        started, outcome = time.perf_counter(), "ok"
        try:
            return await self._send(service, method, request, grants, answer_type, missing)
        except RelayError as error:
            outcome = type(error).__name__
            raise
        finally:
            metrics.livekit_seconds.labels(method, outcome).observe(time.perf_counter() - started)

    async def _send(
        self,
        service: str,
        method: str,
        request: Message,
        grants: dict[str, Any],
        answer_type: type[Answer],
        missing: Exception | None,
    ) -> Answer:
        if self._twirp is None:
            raise RuntimeError("the room service was not entered")
        now_s = self._clock.now_ms() // 1000 - _NOT_BEFORE_LEEWAY_S
        token = self._signer.sign({"video": grants}, now_s=now_s, ttl_s=_TOKEN_TTL_S + _NOT_BEFORE_LEEWAY_S)
        headers = {"authorization": f"Bearer {token}"}
        try:
            return await self._twirp.request(service, method, request, headers, answer_type, timeout=self._timeout)
        except ServerError as error:
            raise _fact(error, missing) from None
        except AnswerTooLarge:
            raise LiveKitAnswerTooLarge from None
        # A connection that could not be made is no slow answer, although aiohttp calls both a time-out.
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectionError) as error:
            if isinstance(error, aiohttp.SocketTimeoutError):
                raise LiveKitTimedOut from None
            raise LiveKitUnreachable from None
        except TimeoutError:
            raise LiveKitTimedOut from None
        except aiohttp.ClientError:
            raise LiveKitUnreachable from None
        except (DecodeError, AttributeError):
            # Not protobuf where protobuf should be, or an error in JSON that is no object: whatever answered, it is no
            # LiveKit.
            raise LiveKitFailed(200, "malformed") from None


def _admin(name: str) -> dict[str, Any]:
    return {"roomAdmin": True, "room": name}


def display_name(name: str) -> str:
    """A room's name as its project knows it; LiveKit's own for a room that is no project's."""
    parsed = parse_livekit_room(name)
    return name if parsed is None else parsed.display


# LiveKit's messages that tell the client something, in words that hold no name or token.
_TOLD = {
    "metadata size exceeds": ("metadata is larger than this LiveKit allows", "metadata"),
    "attribute size exceeds": ("attributes are larger than this LiveKit allows", "attributes"),
    "name length exceeds": ("name is longer than this LiveKit allows", "name"),
    "remote unmute not enabled": (
        "this LiveKit lets nobody unmute others; `room.enable_remote_unmute` allows it",
        None,
    ),
}


def _fact(error: ServerError, missing: Exception | None) -> Exception:
    # From JSON that somebody sent: of any type.
    code, message = str(error.code), str(error.message)
    if error.status in (401, 403):
        return LiveKitCredentialsRefused()
    if code == ServerErrorCode.NOT_FOUND and missing is not None:
        return missing
    if code == ServerErrorCode.DEADLINE_EXCEEDED:
        return LiveKitTimedOut()
    if code == ServerErrorCode.INTERNAL and "not connected (redis required)" in message:
        return LiveKitServiceAbsent(error.status, code)
    told = next((ours for theirs, ours in _TOLD.items() if theirs in message), None)
    if code in (ServerErrorCode.INVALID_ARGUMENT, ServerErrorCode.OUT_OF_RANGE):
        return LiveKitRefusedInput(*(told or ("LiveKit takes this request for invalid",)))
    if code in (ServerErrorCode.FAILED_PRECONDITION, ServerErrorCode.ALREADY_EXISTS, ServerErrorCode.ABORTED):
        return LiveKitRefusedState(told[0] if told else "LiveKit cannot do this as things are")
    return LiveKitFailed(error.status, code)
