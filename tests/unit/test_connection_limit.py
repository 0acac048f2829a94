"""Making room for new connections does not keep the event loop busy."""

import asyncio
from typing import Any

from services.api.http.serving.http_limits import HttpGuard, HttpLimits


class AnsweringConnection:
    """A connection whose request is being answered, so that it cannot be closed for another."""

    has_shown_key = False

    def __init__(self) -> None:
        self.asked = 0

    def waiting_since(self) -> float | None:
        self.asked += 1
        return None

    def look(self, _now: float) -> int:
        return 0


async def test_connections_that_are_all_being_answered_are_not_checked_in_every_turn() -> None:
    guard = HttpGuard(HttpLimits(connections=1))
    connections: set[Any] = {AnsweringConnection() for _ in range(3)}
    guard.joined(connections, asyncio.get_running_loop())
    for _ in range(100):
        await asyncio.sleep(0)
    assert 1 <= max(each.asked for each in connections) <= 5
    connections.clear()
