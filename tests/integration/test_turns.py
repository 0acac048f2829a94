"""A client with a key is served before clients that have shown none.

This holds for any number of them and whatever they send.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.access import key_store
from services.api.http.serving.hot_routes import HotRoutes
from services.api.http.serving.http_guard import GuardedProtocol
from services.api.http.serving.http_limits import HttpLimits
from services.api.http.serving.turns import Turns
from shared.infra.ids import new_key
from shared.infra.settings import Settings
from shared.models.projects import CreatedProject
from tests.integration.conftest import key_of
from tests.integration.test_held_memory import TOKENS, WEBHOOKS, guarded, head
from tests.integration.test_hot_protocol import GOOD, Signed, connected, request, until

STRANGERS = 40
PAGE_S = 0.002
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def settings(module_settings: Settings) -> Settings:
    """The settings of the shared application. Each test has its own project."""
    return module_settings


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: relay\r\n\r\n".encode()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("known", [TOKENS, WEBHOOKS])
@pytest.mark.parametrize(
    "stranger",
    [
        get("/"),
        get("/docs") * 3,
        get("/nowhere") * 50,
        request("/sign-in", {"Content-Type": "application/x-www-form-urlencoded"}, b"email=a&password=b"),
        request(TOKENS, {**JSON, "Authorization": "Bearer " + new_key("live", "secret")}, GOOD),
        request(WEBHOOKS, {}, GOOD, chunked=True),
    ],
    ids=["page", "pages", "pipelined", "form", "unknown key", "unsigned"],
)
async def test_a_known_client_is_served_before_unknown_clients(
    module_app: HotRoutes,
    project: CreatedProject,
    signed: Signed,
    monkeypatch: pytest.MonkeyPatch,
    stranger: bytes,
    known: str,
    chunked: bool,
) -> None:
    """``chunked`` requests are answered by the application, the others by the connection."""
    headers = {**key_of(project), **JSON} if known == TOKENS else signed(GOOD)
    asked = request(known, {**headers, "X-Known": "yes"}, GOOD, chunked=chunked)
    monkeypatch.setattr(
        key_store, "TRUST_MS", 60_000
    )  # a late heartbeat on a busy machine must not make the key unknown
    calls: list[int] = []
    whole = HotRoutes.__call__
    async with guarded(module_app, HttpLimits()) as (url, running, _), connected(url) as wire:
        app: Any = running.config.app
        shown = {"path": known, "headers": [(b"authorization", headers["Authorization"].encode())]}
        async with asyncio.timeout(20):
            while not app.is_known(shown):  # a key is not trusted before the process listens for changes of keys
                wire.writer.write(asked)
                assert (await wire.answer()).status == 200
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address) as client:
            await until(lambda: len(running.server_state.connections) == 2)

            async def counted(self: HotRoutes, scope: Any, receive: Any, send: Any) -> None:
                if (b"x-known", b"yes") not in scope["headers"]:
                    calls.append(1)
                    if len(calls) == 1:
                        client.sendall(asked)  # the others are waiting
                    if len(calls) <= STRANGERS:
                        # An answer takes the processor's time. A known webhook meanwhile waits for Redis.
                        time.sleep(PAGE_S)  # noqa: ASYNC251  # it must block the event loop
                await whole(self, scope, receive, send)

            monkeypatch.setattr(HotRoutes, "__call__", counted)
            others = [socket.create_connection(address) for _ in range(STRANGERS)]
            for each in others:
                each.sendall(stranger)
            before_answer = await _calls_until_readable(client, calls)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            for each in others:
                each.close()
    # Without turns every stranger is served first. On a busy machine the known request may arrive late.
    assert before_answer < STRANGERS - 4


async def _calls_until_readable(client: socket.socket, calls: list[int]) -> int:
    client.setblocking(False)
    loop, found = asyncio.get_running_loop(), 0
    readable = loop.create_future()

    def note() -> None:
        nonlocal found
        if not readable.done():
            found = len(calls)
            readable.set_result(None)

    loop.add_reader(client, note)
    try:
        async with asyncio.timeout(20):
            await readable
    finally:
        loop.remove_reader(client)
    return found


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "a.b.c"}, {"Authorization": "Bearer " + new_key("live", "secret")}]
)
@pytest.mark.parametrize("path", [TOKENS, WEBHOOKS, "/v1/rooms", "/sign-in"])
async def test_few_bodies_are_read_in_one_turn_of_the_loop(
    module_app: HotRoutes, monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str]
) -> None:
    """Refused bodies count too: the server reads and discards them, so that the client sees its answer."""
    loop, turn, size, reads = asyncio.get_running_loop(), 0, 0, Counter[int]()
    begun: set[int] = set()
    whole = GuardedProtocol.data_received

    def counted(self: GuardedProtocol, data: bytes) -> None:
        nonlocal size
        size += len(data)
        if id(self) in begun:
            reads[turn] += 1
        begun.add(id(self))
        whole(self, data)

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if not done:
            loop.call_soon(next_turn)

    done = False
    monkeypatch.setattr(GuardedProtocol, "data_received", counted)
    said = head(path, {**headers, **JSON}, 2**20) + b"x" * (2**20 - 1)
    async with guarded(module_app, HttpLimits()) as (url, running, _):
        loop.call_soon(next_turn)
        clients = [socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) for _ in range(12)]
        sending = [asyncio.to_thread(_send, each, said) for each in clients]
        await asyncio.gather(*sending)
        await until(lambda: size == len(clients) * len(said))
        for each in clients:
            each.close()
        await until(lambda: not running.server_state.connections)
        done = True
    assert 0 < max(reads.values()) <= 5  # four, and one if the test's own counter splits a turn


def _send(client: socket.socket, said: bytes) -> None:
    client.settimeout(20)
    client.sendall(said)


class _Loop:
    """An event loop with the one method that ``Turns`` uses."""

    def __init__(self) -> None:
        self.ready: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.ready.append((callback, arguments))

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for callback, arguments in ready:
            callback(*arguments)


@given(st.lists(st.lists(st.sampled_from(["start", "read"]), max_size=30), max_size=10))
def test_each_callback_runs_once_in_order_and_few_per_turn(arriving: list[list[str]]) -> None:
    loop: Any = _Loop()
    turns, asked, run = Turns(), list[tuple[str, int]](), list[tuple[str, int]]()
    for kinds in [*arriving, *([[]] * 400)]:
        before = len(run)
        for kind in kinds:
            entry = kind, len(asked)
            asked.append(entry)
            (turns.start if kind == "start" else turns.read)(partial(run.append, entry), loop)
        loop.turn()
        now = Counter(kind for kind, _ in run[before:])
        assert now["start"] <= 2  # one that began at once, and the next one
        assert now["read"] <= 4
    for kind in ("start", "read"):
        assert [entry for entry in run if entry[0] == kind] == [entry for entry in asked if entry[0] == kind]
    assert not loop.ready
