"""The client of LiveKit's room service, and each of LiveKit's failures as an exception."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from livekit.protocol import egress, models, room

from shared.errors import (
    LiveKitAnswerTooLarge,
    LiveKitCredentialsRefused,
    LiveKitError,
    LiveKitFailed,
    LiveKitRefusedInput,
    LiveKitRefusedState,
    LiveKitTimedOut,
    LiveKitUnreachable,
    ParticipantNotFound,
    RelayError,
    RoomNotFound,
    TrackNotFound,
)
from shared.infra.clock import SystemClock
from shared.livekit.bounded_answers import BoundedAnswers
from shared.livekit.room_service import RoomService
from tests.fake_livekit import FakeFailure, FakeLiveKit, fake_livekit, twirp_failure

ROOM = "p_aaaaaaaaaaaaaaaa__lobby"


@pytest.fixture
async def livekit() -> AsyncIterator[FakeLiveKit]:
    async with fake_livekit() as fake:
        yield fake


@pytest.fixture
async def service(livekit: FakeLiveKit) -> AsyncIterator[RoomService]:
    async with RoomService(livekit.url, "devkey", "secret", SystemClock(), total_timeout_s=0.5) as opened:
        yield opened


async def test_every_method_of_the_room_service_works(service: RoomService, livekit: FakeLiveKit) -> None:
    made = await service.create_room(room.CreateRoomRequest(name=ROOM, metadata="m", max_participants=3))
    assert (made.name, made.metadata, made.max_participants) == (ROOM, "m", 3)
    livekit.add_participant(ROOM, "ada", tracks=[{"sid": "TR_1"}])
    livekit.add_room("someone else's")
    assert [found.name for found in await service.list_rooms()] == [ROOM, "someone else's"]
    assert (await service.get_room(ROOM)).sid == made.sid
    assert (await service.update_room_metadata(ROOM, "")).metadata == ""
    assert [person.identity for person in await service.list_participants(ROOM)] == ["ada"]
    assert (await service.get_participant(ROOM, "ada")).tracks[0].sid == "TR_1"
    renamed = await service.update_participant(room.UpdateParticipantRequest(room=ROOM, identity="ada", name="Ada"))
    assert renamed.name == "Ada"
    assert (await service.mute_track(ROOM, "ada", "TR_1", True)).muted
    await service.send_data(room.SendDataRequest(room=ROOM, data=b"hi", topic="chat"))
    assert [(sent.data, sent.topic) for sent in livekit.sent] == [(b"hi", "chat")]
    await service.remove_participant(ROOM, "ada")
    assert await service.list_participants(ROOM) == []
    await service.delete_room(ROOM)
    with pytest.raises(RoomNotFound):
        await service.get_room(ROOM)


async def test_each_call_carries_only_the_grant_it_needs(service: RoomService, livekit: FakeLiveKit) -> None:
    livekit.add_participant(ROOM, "ada")
    await service.list_rooms()
    await service.create_room(room.CreateRoomRequest(name=ROOM))
    await service.list_participants(ROOM)
    await service.list_egress()
    await service.list_ingress()
    admin = {"roomAdmin": True, "room": ROOM}
    rights = [{"roomList": True}, {"roomCreate": True}, admin, {"roomRecord": True}, {"ingressAdmin": True}]
    assert [call.grants for call in livekit.calls] == rights


async def test_an_empty_list_of_names_lists_no_rooms(service: RoomService, livekit: FakeLiveKit) -> None:
    livekit.add_room(ROOM)
    assert await service.list_rooms([]) == []
    assert livekit.calls == []


async def test_a_missing_resource_is_reported_with_the_projects_own_name(
    service: RoomService, livekit: FakeLiveKit
) -> None:
    livekit.add_participant(ROOM, "ada")
    missing = ROOM.replace("lobby", "hall")
    for attempt, fact in (
        (service.delete_room(missing), RoomNotFound("hall")),
        (service.update_room_metadata(missing, "m"), RoomNotFound("hall")),
        (service.get_participant(ROOM, "bob"), ParticipantNotFound("lobby", "bob")),
        (service.remove_participant(ROOM, "bob"), ParticipantNotFound("lobby", "bob")),
        (
            service.update_participant(room.UpdateParticipantRequest(room=ROOM, identity="bob")),
            ParticipantNotFound("lobby", "bob"),
        ),
        (service.mute_track(ROOM, "ada", "TR_9", True), TrackNotFound("lobby", "ada", "TR_9")),
    ):
        with pytest.raises(type(fact)) as raised:
            await attempt
        assert str(raised.value) == str(fact)
        assert "p_" not in str(raised.value)


@pytest.mark.parametrize(
    ("failure", "fact", "asked"),
    [
        (FakeFailure(500, b"<html>oops</html>", "text/html"), LiveKitFailed, 2),
        (FakeFailure(502, b"", "text/plain"), LiveKitFailed, 2),
        (FakeFailure(404, b"not here", "text/plain"), LiveKitFailed, 2),
        (FakeFailure(500, b"[1]", "application/json"), LiveKitFailed, 2),
        (FakeFailure(500, b'{"code": 7, "msg": null}', "application/json"), LiveKitFailed, 2),
        (FakeFailure(200, b"<html>a captive portal</html>", "text/html"), LiveKitFailed, 2),
        (FakeFailure(403, b"forbidden", "text/plain"), LiveKitCredentialsRefused, 1),
        (twirp_failure(500, "internal", "p_x__y broke"), LiveKitFailed, 2),
        (twirp_failure(501, "unimplemented"), LiveKitFailed, 2),
        (twirp_failure(503, "unavailable", "no response from servers"), LiveKitFailed, 2),
        (twirp_failure(429, "resource_exhausted"), LiveKitFailed, 2),
        (twirp_failure(408, "deadline_exceeded"), LiveKitTimedOut, 1),
        (twirp_failure(401, "unauthenticated", "permissions denied"), LiveKitCredentialsRefused, 1),
        (twirp_failure(400, "invalid_argument", "p_x__y is odd"), LiveKitRefusedInput, 1),
        (twirp_failure(412, "failed_precondition", "p_x__y is closed"), LiveKitRefusedState, 1),
        (twirp_failure(409, "already_exists", "p_x__y"), LiveKitRefusedState, 1),
    ],
)
async def test_livekit_failures_raise_their_error_and_only_reads_are_retried(
    service: RoomService, livekit: FakeLiveKit, failure: FakeFailure, fact: type[LiveKitError], asked: int
) -> None:
    livekit.add_room(ROOM)
    livekit.failure = failure
    for attempt, times in ((service.list_rooms(), asked), (service.delete_room(ROOM), 1)):
        livekit.calls.clear()
        with pytest.raises(fact) as raised:
            await attempt
        assert len(livekit.calls) == times
        assert "p_x" not in str(raised.value)
        # The traceback of an unhandled error must not show LiveKit's answer.
        assert raised.value.__cause__ is None


async def test_a_read_succeeds_if_its_second_attempt_succeeds(service: RoomService, livekit: FakeLiveKit) -> None:
    livekit.add_room(ROOM)
    livekit.failures = [twirp_failure(503, "unavailable")]
    assert [found.name for found in await service.list_rooms()] == [ROOM]


async def test_known_limits_are_reported_with_their_field(service: RoomService, livekit: FakeLiveKit) -> None:
    livekit.add_participant(ROOM, "ada", tracks=[{"sid": "TR_1"}])
    with pytest.raises(LiveKitRefusedInput, match="`metadata` is larger") as raised:
        await service.create_room(room.CreateRoomRequest(name=ROOM, metadata="m" * 600_000))
    assert raised.value.param == "metadata"
    with pytest.raises(LiveKitRefusedInput, match="`name` is longer") as raised:
        await service.update_participant(room.UpdateParticipantRequest(room=ROOM, identity="ada", name="n" * 257))
    assert raised.value.param == "name"
    with pytest.raises(LiveKitRefusedState, match="enable_remote_unmute"):
        await service.mute_track(ROOM, "ada", "TR_1", False)


async def test_a_slow_or_unreachable_livekit_raises_its_own_error(service: RoomService, livekit: FakeLiveKit) -> None:
    livekit.add_room(ROOM)
    livekit.delay_s = 3
    for attempt in (service.list_rooms(), service.delete_room(ROOM)):
        with pytest.raises(LiveKitTimedOut):
            await attempt
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with RoomService(f"http://127.0.0.1:{port}", "devkey", "secret", SystemClock()) as lonely:
            with pytest.raises(LiveKitUnreachable):
                await lonely.list_rooms()
    async with RoomService("http://no-such-host.invalid", "devkey", "secret", SystemClock()) as lonely:
        with pytest.raises(LiveKitUnreachable):
            await lonely.delete_room(ROOM)


async def test_an_address_that_never_accepts_is_unreachable() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for client in waiting:  # fills the backlog: the kernel leaves further connections unanswered
                client.setblocking(False)
                client.connect_ex(address)
            url = f"http://127.0.0.1:{address[1]}"
            async with RoomService(url, "devkey", "secret", SystemClock(), connect_timeout_s=0.2) as lonely:
                with pytest.raises(LiveKitUnreachable):
                    await lonely.delete_room(ROOM)
        finally:
            for client in waiting:
                client.close()


async def test_wrong_credentials_are_reported_without_their_values(livekit: FakeLiveKit) -> None:
    for key, secret in (("devkey", "another secret"), ("otherkey", "secret")):
        async with RoomService(livekit.url, key, secret, SystemClock()) as stranger:
            with pytest.raises(LiveKitCredentialsRefused) as raised:
                await stranger.list_rooms()
            told = str(raised.value)
            assert "LIVEKIT_API_SECRET" in told
            assert not any(hidden in told for hidden in (key, "another secret", "eyJ"))


async def test_egress_is_listed_in_pages_and_is_empty_without_its_service(
    service: RoomService, livekit: FakeLiveKit
) -> None:
    livekit.egresses = [egress.EgressInfo(egress_id="EG_1", room_name=ROOM), egress.EgressInfo(egress_id="EG_2")]
    assert [item.egress_id for item in await service.list_egress()] == ["EG_1", "EG_2"]
    assert [item.egress_id for item in await service.list_egress(ROOM)] == ["EG_1"]
    livekit.failure = twirp_failure(500, "internal", "twirp error unknown: egress not connected (redis required)")
    assert await service.list_egress() == []
    assert await service.list_ingress() == []


def test_every_livekit_error_has_its_http_status() -> None:
    from services.api.http.problems import problem_of

    facts: list[RelayError] = [
        LiveKitUnreachable(), LiveKitTimedOut(), LiveKitFailed(500, "internal"), LiveKitCredentialsRefused(),
        LiveKitRefusedInput("no"), LiveKitRefusedState("no"), RoomNotFound("lobby"), ParticipantNotFound("lobby", "ada"),
        TrackNotFound("lobby", "ada", "TR_1"),
    ]  # fmt: skip
    assert [problem_of(fact).status for fact in facts] == [502, 504, 502, 502, 400, 409, 404, 404, 404]
    assert "internal_error" not in [problem_of(fact).code for fact in facts]


async def endless_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send chunks without end, or a very large content length."""
    request = await reader.readuntil(b"\r\n\r\n")
    kind = b"content-length: 9000000000" if b"ListRooms" in request else b"transfer-encoding: chunked"
    status = b"503 No" if b"GetParticipant" in request else b"200 OK"
    writer.write(b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%s\r\n\r\n" % (status, kind))
    with suppress(ConnectionError):
        while True:
            writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
            await writer.drain()
    writer.close()


async def test_an_endless_answer_is_not_read_to_the_end() -> None:
    answers = BoundedAnswers(max_bytes=1_000_000, max_under_way=1_500_000)
    server = await asyncio.start_server(endless_answers, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        RoomService(f"http://127.0.0.1:{port}", "devkey", "secret", SystemClock(), answers=answers) as service,
    ):
        tracemalloc.start()
        for question in (
            service.list_rooms,
            lambda: service.list_participants(ROOM),
            lambda: service.get_participant(ROOM, "ada"),
        ):
            with pytest.raises((LiveKitAnswerTooLarge, LiveKitFailed)):
                await question()
        asked = await asyncio.gather(*(service.list_participants(ROOM) for _ in range(20)), return_exceptions=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert all(isinstance(answer, LiveKitAnswerTooLarge) for answer in asked)
    assert answers.under_way == 0
    assert peak < 20_000_000


async def test_a_listing_with_endless_pages_is_an_error(service: RoomService, monkeypatch: pytest.MonkeyPatch) -> None:
    page = egress.ListEgressResponse(next_page_token=models.TokenPagination(token="again"))

    async def read(*_: object) -> egress.ListEgressResponse:
        return page

    monkeypatch.setattr(service._livekit, "call_with_retry", read)
    with pytest.raises(LiveKitAnswerTooLarge):
        await service.list_egress()
