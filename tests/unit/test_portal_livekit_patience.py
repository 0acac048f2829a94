"""Only one page waits the full time for a LiveKit that does not answer."""

import asyncio

import pytest

from services.api.portal.rooms.livekit_patience import (
    FORGOTTEN_AFTER_S,
    PATIENCE_S,
    SHORT_PATIENCE_S,
    LiveKitPatience,
)
from shared.errors import LiveKitUnreachable, RoomNotFound


class SteppedClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def waited_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the time limit of each question, and let it expire at once."""
    waited: list[float] = []
    timeout = asyncio.timeout

    def at_once(delay: float) -> asyncio.Timeout:
        waited.append(delay)
        return timeout(0)

    monkeypatch.setattr(asyncio, "timeout", at_once)
    return waited


async def refused() -> str:
    raise LiveKitUnreachable


async def missing() -> str:
    raise RoomNotFound("lobby")


async def answering() -> str:
    return "here"


async def ask_without_answer(patience: LiveKitPatience) -> None:
    with pytest.raises(LiveKitUnreachable):
        await patience.ask(asyncio.Event().wait())


async def test_only_the_first_page_waits_the_full_time(waited_s: list[float]) -> None:
    patience = LiveKitPatience()
    for _ in range(3):
        await ask_without_answer(patience)
    assert waited_s == [PATIENCE_S, SHORT_PATIENCE_S, SHORT_PATIENCE_S]


async def test_full_wait_returns_after_a_fixed_time_despite_new_failures(waited_s: list[float]) -> None:
    clock = SteppedClock()
    patience = LiveKitPatience(clock)
    with pytest.raises(LiveKitUnreachable):
        await patience.ask(refused())
    for _ in range(5):
        clock.now += FORGOTTEN_AFTER_S / 5
        await ask_without_answer(patience)
    clock.now += 0.1
    await ask_without_answer(patience)
    assert waited_s == [PATIENCE_S, *[SHORT_PATIENCE_S] * 5, PATIENCE_S]


@pytest.mark.parametrize("back", [answering, missing])
async def test_any_answer_of_livekit_restores_the_full_wait(back: object, waited_s: list[float]) -> None:
    patience = LiveKitPatience()
    with pytest.raises(LiveKitUnreachable):
        await patience.ask(refused())
    try:
        assert await patience.ask(back()) == "here"  # type: ignore[operator]  # one of the two functions above
    except RoomNotFound:
        assert back is missing
    await ask_without_answer(patience)
    assert waited_s == [PATIENCE_S, SHORT_PATIENCE_S, PATIENCE_S]
