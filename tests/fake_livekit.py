"""A fake LiveKit: its room service as Twirp over HTTP with protobuf bodies, and its failures.

The responses were compared with livekit-server v1.13.5. It checks that a token has the grant that a call needs, and answers a
bad token in plain text. CreateRoom does not change an open room. A command for a missing participant is "unavailable".
"""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web
from google.protobuf.message import Message
from livekit.protocol import agent_dispatch, egress, ingress, models, room

API_KEY = "devkey"
API_SECRET = "secret"


class Call(NamedTuple):
    """A request that arrived: its method, such as ``ListRooms``, its message and the rights in its token."""

    method: str
    message: Any
    grants: dict[str, Any]


class FakeFailure(NamedTuple):
    """The response to send instead."""

    status: int
    body: bytes
    content_type: str


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def twirp_failure(status: int, code: str, message: str = "") -> FakeFailure:
    return FakeFailure(status, json.dumps({"code": code, "msg": message}).encode(), "application/json")


_NOT_A_ROOM = _Refused(404, "not_found", "twirp error unknown: requested room does not exist")
_NOBODY = _Refused(404, "not_found", "twirp error unknown: participant does not exist")
_NO_ANSWER = _Refused(503, "unavailable", "twirp error unknown: no response from servers")


class FakeLiveKit:
    """A LiveKit whose state a test sets and changes.

    ``rooms`` and ``people`` (by room, then identity) are its state. ``failure`` and ``delay_s`` apply to every call while they
    are set. ``failures`` are used up first, one a call. ``calls`` records the calls. ``ghosts`` are identities that are listed
    but served by no node. In the rooms of ``dead`` that is true for everybody. The participants of rooms in ``refusing``
    cannot be listed. ``unknown_methods`` are those that this LiveKit does not have. Calls wait for ``gate`` before they are
    answered; ``waiting`` is their number.
    """

    def __init__(self, api_key: str, api_secret: str) -> None:
        self.url = ""
        self._key, self._secret = api_key, api_secret
        self._numbers = iter(range(1, 1_000_000))
        self.reset()

    def reset(self) -> None:
        """Forget rooms, participants, calls and failures."""
        self.rooms: dict[str, models.Room] = {}
        self.people: dict[str, dict[str, models.ParticipantInfo]] = {}
        self.egresses: list[egress.EgressInfo] = []
        self.ingresses: list[ingress.IngressInfo] = []
        self.sent: list[room.SendDataRequest] = []
        self.calls: list[Call] = []
        self.failure: FakeFailure | None = None
        self.failures: list[FakeFailure] = []
        self.delay_s = 0.0
        self.gate: asyncio.Event | None = None
        self.waiting = 0
        self.ghosts: set[str] = set()
        self.dead: set[str] = set()
        self.refusing: set[str] = set()
        self.unknown_methods: set[str] = set()

    def add_room(self, name: str, /, **fields: Any) -> models.Room:
        number = next(self._numbers)
        made = models.Room(
            sid=f"RM_{number:012}", name=name, creation_time=1_780_000_000, creation_time_ms=1_780_000_000_000
        )
        made.MergeFrom(models.Room(empty_timeout=300, departure_timeout=20, turn_password="not for anyone"))
        made.MergeFrom(models.Room(**fields))
        self.rooms[name] = made
        return made

    def add_participant(self, name: str, identity: str, /, **fields: Any) -> models.ParticipantInfo:
        if name not in self.rooms:
            self.add_room(name)
        number = next(self._numbers)
        allowed = models.ParticipantPermission(can_subscribe=True, can_publish=True, can_publish_data=True)
        person = models.ParticipantInfo(sid=f"PA_{number:012}", identity=identity, permission=allowed)
        person.state = models.ParticipantInfo.State.ACTIVE
        person.joined_at, person.joined_at_ms = 1_780_000_001, 1_780_000_001_500
        person.MergeFrom(models.ParticipantInfo(**fields))
        self.people.setdefault(name, {})[identity] = person
        self.rooms[name].num_participants = len(self.people[name])
        return person

    def orders(self, method: str) -> list[Any]:
        """Return the messages of one method."""
        return [call.message for call in self.calls if call.method == method]

    async def answer(self, request: web.Request) -> web.Response:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        failure = self.failures.pop(0) if self.failures else self.failure
        method = request.match_info["method"]
        claims = self._claims(request.headers.get("authorization", ""))
        known = _METHODS.get(f"{request.match_info['service']}/{method}")
        if failure is None and claims is None:
            failure = FakeFailure(401, b"invalid token: " + request.headers["authorization"].encode(), "text/plain")
        if known is None or method in self.unknown_methods:
            failure = failure or twirp_failure(404, "bad_route", f"no handler for path {request.path!r}")
        else:
            message = known.request.FromString(await request.read())
            grants = (claims or {}).get("video", {})
            self.calls.append(Call(method, message, grants))
            if failure is None:
                try:
                    if not known.allowed(grants, message):
                        raise _Refused(401, "unauthenticated", "permissions denied")
                    answered: Message = known.act(self, message)
                    return web.Response(body=answered.SerializeToString(), content_type="application/protobuf")
                except _Refused as refused:
                    failure = twirp_failure(refused.status, refused.code, str(refused))
        assert failure is not None
        return web.Response(status=failure.status, body=failure.body, content_type=failure.content_type)

    def _claims(self, authorization: str) -> dict[str, Any] | None:
        token = authorization.removeprefix("Bearer ").encode()
        signed, _, signature = token.rpartition(b".")
        expected = base64.urlsafe_b64encode(hmac.digest(self._secret.encode(), signed, "sha256")).rstrip(b"=")
        if not hmac.compare_digest(signature, expected):
            return None
        payload = signed.partition(b".")[2]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        return claims if claims["iss"] == self._key else None

    def create_room(self, message: Any) -> models.Room:
        if len(message.name.encode()) > 256:
            raise _Refused(
                400, "invalid_argument", "twirp error unknown: room name length exceeds limits: max length 256"
            )
        if len(message.metadata.encode()) > 512 * 1024:
            raise _Refused(400, "invalid_argument", "metadata size exceeds limits 524288")
        if message.name not in self.rooms:
            given = ("empty_timeout", "departure_timeout", "max_participants", "metadata")
            self.add_room(message.name, **{name: getattr(message, name) for name in given if getattr(message, name)})
        return self.rooms[message.name]

    def list_rooms(self, message: Any) -> Message:
        found = [known for name, known in self.rooms.items() if not message.names or name in message.names]
        return room.ListRoomsResponse(rooms=found)

    def delete_room(self, message: Any) -> Message:
        self._room(message.room)
        del self.rooms[message.room]
        self.people.pop(message.room, None)
        return room.DeleteRoomResponse()

    def update_room_metadata(self, message: Any) -> models.Room:
        known = self._room(message.room)
        known.metadata = message.metadata
        return known

    def update_subscriptions(self, message: Any) -> Message:
        served = message.room not in self.dead and message.identity not in self.ghosts
        if message.identity not in self.people.get(message.room, {}) or not served:
            raise _NO_ANSWER
        return room.UpdateSubscriptionsResponse()

    def list_dispatch(self, message: Any) -> Message:
        if message.room not in self.rooms or message.room in self.dead:
            raise _NO_ANSWER
        return agent_dispatch.ListAgentDispatchResponse()

    def list_participants(self, message: Any) -> Message:
        if message.room in self.refusing:
            raise _Refused(500, "internal", "could not list")
        return room.ListParticipantsResponse(participants=self.people.get(message.room, {}).values())

    def get_participant(self, message: Any) -> models.ParticipantInfo:
        return self._person(message.room, message.identity)

    def remove_participant(self, message: Any) -> Message:
        self._person(message.room, message.identity)
        del self.people[message.room][message.identity]
        return room.RemoveParticipantResponse()

    def update_participant(self, message: Any) -> models.ParticipantInfo:
        if len(message.name.encode()) > 256:
            raise _Refused(400, "invalid_argument", "name length exceeds limits 256")
        person = self._person(message.room, message.identity)
        person.name = message.name or person.name
        person.metadata = message.metadata or person.metadata
        for key, value in message.attributes.items():
            person.attributes.pop(key, None)
            if value:
                person.attributes[key] = value
        if message.HasField("permission"):
            person.permission.CopyFrom(message.permission)
        return person

    def mute_track(self, message: Any) -> Message:
        if message.identity not in self.people.get(message.room, {}):
            raise _NO_ANSWER
        for track in self.people[message.room][message.identity].tracks:
            if track.sid == message.track_sid:
                if not message.muted:
                    raise _Refused(412, "failed_precondition", "twirp error unknown: remote unmute not enabled")
                track.muted = True
                return room.MuteRoomTrackResponse(track=track)
        return room.MuteRoomTrackResponse()

    def send_data(self, message: Any) -> Message:
        if message.room not in self.rooms:
            raise _NO_ANSWER
        self.sent.append(message)
        return room.SendDataResponse()

    def list_egress(self, message: Any) -> Message:
        return egress.ListEgressResponse(items=[e for e in self.egresses if message.room_name in ("", e.room_name)])

    def list_ingress(self, message: Any) -> Message:
        return ingress.ListIngressResponse(items=[i for i in self.ingresses if message.room_name in ("", i.room_name)])

    def _room(self, name: str) -> models.Room:
        if name not in self.rooms:
            raise _NOT_A_ROOM
        return self.rooms[name]

    def _person(self, name: str, identity: str) -> models.ParticipantInfo:
        if identity not in self.people.get(name, {}):
            raise _NOBODY
        return self.people[name][identity]


class _Method(NamedTuple):
    request: Any
    allowed: Callable[[dict[str, Any], Any], bool]
    act: Callable[[FakeLiveKit, Any], Message]


def _admin(grants: dict[str, Any], message: Any) -> bool:
    return grants.get("roomAdmin") is True and grants.get("room") == message.room


def _holds(right: str) -> Callable[[dict[str, Any], Any], bool]:
    return lambda grants, _message: grants.get(right) is True


_METHODS = {
    "livekit.RoomService/CreateRoom": _Method(room.CreateRoomRequest, _holds("roomCreate"), FakeLiveKit.create_room),
    "livekit.RoomService/ListRooms": _Method(room.ListRoomsRequest, _holds("roomList"), FakeLiveKit.list_rooms),
    "livekit.RoomService/DeleteRoom": _Method(room.DeleteRoomRequest, _holds("roomCreate"), FakeLiveKit.delete_room),
    "livekit.RoomService/UpdateRoomMetadata": _Method(
        room.UpdateRoomMetadataRequest, _admin, FakeLiveKit.update_room_metadata
    ),
    "livekit.RoomService/ListParticipants": _Method(
        room.ListParticipantsRequest, _admin, FakeLiveKit.list_participants
    ),
    "livekit.RoomService/GetParticipant": _Method(room.RoomParticipantIdentity, _admin, FakeLiveKit.get_participant),
    "livekit.RoomService/RemoveParticipant": _Method(
        room.RoomParticipantIdentity, _admin, FakeLiveKit.remove_participant
    ),
    "livekit.RoomService/UpdateParticipant": _Method(
        room.UpdateParticipantRequest, _admin, FakeLiveKit.update_participant
    ),
    "livekit.RoomService/MutePublishedTrack": _Method(room.MuteRoomTrackRequest, _admin, FakeLiveKit.mute_track),
    "livekit.RoomService/UpdateSubscriptions": _Method(
        room.UpdateSubscriptionsRequest, _admin, FakeLiveKit.update_subscriptions
    ),
    "livekit.AgentDispatchService/ListDispatch": _Method(
        agent_dispatch.ListAgentDispatchRequest, _admin, FakeLiveKit.list_dispatch
    ),
    "livekit.RoomService/SendData": _Method(room.SendDataRequest, _admin, FakeLiveKit.send_data),
    "livekit.Egress/ListEgress": _Method(egress.ListEgressRequest, _holds("roomRecord"), FakeLiveKit.list_egress),
    "livekit.Ingress/ListIngress": _Method(
        ingress.ListIngressRequest, _holds("ingressAdmin"), FakeLiveKit.list_ingress
    ),
}


@asynccontextmanager
async def fake_livekit(
    api_key: str = API_KEY, api_secret: str = API_SECRET, port: int = 0
) -> AsyncIterator[FakeLiveKit]:
    """Run a fake LiveKit on the loopback interface, in this event loop, until the block ends."""
    fake = FakeLiveKit(api_key, api_secret)
    handler: Callable[[web.Request], Awaitable[web.Response]] = fake.answer
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_post("/twirp/{service}/{method}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()
