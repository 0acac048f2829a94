"""A background task that ends unexpectedly stops the process.

Every waiting request is answered, and `/readyz` reports the failure.
"""

import asyncio

import pytest

from services.api.app import create_app
from services.api.http.serving.server import Drain, Server, server_config
from services.api.webhooks.intake import Intake
from shared.infra.settings import Settings
from shared.infra.tasks import Background
from tests.integration.test_hot_protocol import Signed, connected, request, until

WEBHOOKS = "/api/webhooks/livekit"


@pytest.mark.parametrize("error", [RuntimeError("a defect"), asyncio.CancelledError()])
async def test_a_failed_intake_refuses_webhooks_and_stops_the_process(
    settings: Settings, signed: Signed, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(_intake: Intake) -> None:
        raise error

    monkeypatch.setattr(Intake, "_next_group", fails)
    drain = Drain()
    running = Server(server_config(create_app(settings, drain=drain), port=0), drain, drain_s=30)
    task = asyncio.create_task(running.serve())
    await until(lambda: running.started or task.done())
    url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    for _ in range(2):  # a request that waited, and one that comes later
        async with connected(url) as wire:
            wire.writer.write(request(WEBHOOKS, signed(b"{}"), b"{}"))
            answer = await wire.answer()
            assert (answer.status, b"event_not_kept" in answer.body) == (503, True)
            assert b"retry-after: " in answer.head
    assert drain.failed == "intake"
    async with connected(url) as wire:
        wire.writer.write(b"GET /readyz HTTP/1.1\r\nhost: r\r\n\r\n")
        answer = await wire.answer()
        assert (answer.status, b'"process":"failed: intake"' in answer.body) == (503, True)
    await until(lambda: drain.started)  # the process drains as after a signal
    running.should_exit = True
    await task


@pytest.mark.parametrize("raises", [True, False])
async def test_an_ended_task_is_reported_by_name(raises: bool) -> None:
    failed: list[str] = []
    background = Background(failed.append)

    async def ends() -> None:
        if raises:
            raise ValueError

    background.start("ends", ends())
    stays = background.start("stays", asyncio.Event().wait())  # type: ignore[arg-type]  # it never returns
    await until(lambda: failed == ["ends"])
    await background.end()
    assert stays.cancelled()
    assert failed == ["ends"]
