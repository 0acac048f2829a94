"""Pages wait for a LiveKit that is away once, not each."""

import asyncio
import time

import pytest

from services.api.portal.livekit_patience import FORGOTTEN_AFTER_S, PATIENCE_S, LiveKitPatience
from shared.errors import LiveKitUnreachable, RoomNotFound


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def refused() -> str:
    raise LiveKitUnreachable


async def missing() -> str:
    raise RoomNotFound("lobby")


async def answering() -> str:
    return "here"


async def took_s(patience: LiveKitPatience) -> float:
    """For a question that is never answered."""
    started = time.monotonic()
    with pytest.raises(LiveKitUnreachable):
        await patience.ask(asyncio.sleep(3600))
    return time.monotonic() - started


async def test_only_the_first_page_waits() -> None:
    patience = LiveKitPatience()
    assert await took_s(patience) >= PATIENCE_S
    assert await took_s(patience) < PATIENCE_S / 2


async def test_the_verdict_is_forgotten_after_a_while_however_often_it_was_confirmed() -> None:
    clock = Clock()
    patience = LiveKitPatience(clock)
    with pytest.raises(LiveKitUnreachable):
        await patience.ask(refused())
    for _ in range(5):
        clock.now += FORGOTTEN_AFTER_S / 5
        assert await took_s(patience) < PATIENCE_S / 2
    clock.now += 0.1
    assert await took_s(patience) >= PATIENCE_S


@pytest.mark.parametrize("back", [answering, missing])
async def test_any_answer_ends_it(back: object) -> None:
    patience = LiveKitPatience()
    with pytest.raises(LiveKitUnreachable):
        await patience.ask(refused())
    try:
        assert await patience.ask(back()) == "here"  # type: ignore[operator]  # one of the two functions above
    except RoomNotFound:
        assert back is missing
    assert await took_s(patience) >= PATIENCE_S
