"""The windows of the rate limits: what one process admits, and what several processes admit together."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.access.rate_windows import EXCHANGE_S, WINDOW_MS, RateWindows, Verdict, Window

MINUTE = 30_000_000  # the number of a window
START_MS = MINUTE * WINDOW_MS


class WindowClock:
    def __init__(self, now_ms: int = START_MS) -> None:
        self.at = now_ms

    def now_ms(self) -> int:
        return self.at


class Counters:
    """The two Redis commands in use, in memory. With ``away`` they fail as with an unreachable Redis."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.away = False

    def pipeline(self, transaction: bool) -> "Counters.Pipeline":
        assert not transaction
        return Counters.Pipeline(self)

    class Pipeline:
        def __init__(self, counters: "Counters") -> None:
            self.counters, self.commands = counters, list[tuple[str, int] | None]()

        def incrby(self, key: str, amount: int) -> None:
            self.commands.append((key, amount))

        def pexpire(self, key: str, _ms: int) -> None:
            self.commands.append(None)

        async def execute(self) -> list[int]:
            if self.counters.away:
                raise ConnectionError("away")
            answers = []
            for command in self.commands:
                if command is None:
                    answers.append(1)
                else:
                    self.counters.counts[command[0]] = self.counters.counts.get(command[0], 0) + command[1]
                    answers.append(self.counters.counts[command[0]])
            return answers


def process(redis: Any, clock: WindowClock) -> RateWindows:
    return RateWindows(redis, clock)


def took(windows: RateWindows, clock: WindowClock, limit: int, times: int) -> int:
    return sum(windows.take([("key", limit)], clock.at).wait_s == 0 for _ in range(times))


def test_exactly_the_limit_of_requests_is_admitted() -> None:
    clock = WindowClock()
    windows = process(Counters(), clock)
    assert took(windows, clock, 10, 25) == 10
    verdict = windows.take([("key", 10)], clock.at)
    assert (verdict.limit, verdict.left, verdict.reset_s) == (10, 0, 60)


def test_nearest_limit_is_reported_and_a_refusal_consumes_nothing() -> None:
    clock = WindowClock()
    windows = process(Counters(), clock)
    both = [("key", 5), ("project", 8)]
    assert [windows.take(both, clock.at).left for _ in range(6)] == [4, 3, 2, 1, 0, 0]
    other = [("other key", 5), ("project", 8)]
    assert [(v.limit, v.left, v.wait_s > 0) for v in (windows.take(other, clock.at) for _ in range(4))] == [
        (8, 2, False), (8, 1, False), (8, 0, False), (8, 0, True),
    ]  # fmt: skip


def test_previous_minute_counts_in_proportion_to_its_overlap() -> None:
    clock = WindowClock(START_MS + 59_000)
    windows = process(Counters(), clock)
    assert took(windows, clock, 100, 200) == 100
    clock.at = START_MS + WINDOW_MS + 15_000
    assert took(windows, clock, 100, 200) == 25
    clock.at = START_MS + 3 * WINDOW_MS
    assert took(windows, clock, 100, 200) == 100


def test_wait_time_follows_the_weight_of_the_previous_minute() -> None:
    windows, minute = process(Counters(), WindowClock()), 29_000_000 * WINDOW_MS
    limits = [("key", 10), ("project", 100)]
    verdicts = [windows.take(limits, minute + 59_000) for _ in range(12)]
    assert [verdict.left for verdict in verdicts] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]
    # 66 s after the start of that minute its 10 requests weigh 9, so one more is admitted.
    assert [verdict.wait_s for verdict in verdicts[9:]] == [0, 7, 7]
    assert windows.take(limits, minute + 65_999).wait_s == 1
    assert windows.take(limits, minute + 66_000).wait_s == 0
    assert windows.take(limits, minute + 90_000).left == 3
    assert windows.take(limits, minute + 240_000) == Verdict(10, 9, 60, 0)


@given(st.integers(1, 50), st.integers(0, 2 * WINDOW_MS), st.integers(0, WINDOW_MS - 1))
def test_retry_after_is_sufficient_and_at_most_a_second_too_long(limit: int, later_ms: int, start_ms: int) -> None:
    clock = WindowClock(START_MS + start_ms)
    windows = process(Counters(), clock)
    took(windows, clock, limit, limit)
    clock.at += later_ms
    took(windows, clock, limit, limit)
    refused = windows.take([("key", limit)], clock.at)
    assert refused.wait_s >= 1
    assert refused.wait_s <= 2 * WINDOW_MS // 1000
    retry_ms = clock.at + refused.wait_s * 1000
    if refused.wait_s > 1:
        assert windows.take([("key", limit)], retry_ms - 1001).wait_s > 0
    assert windows.take([("key", limit)], retry_ms).wait_s == 0


async def test_processes_exceed_the_limit_by_two_exchanges_at_most() -> None:
    """Three processes under 1,200 requests a second exchange their counts at different moments.

    At most the requests that arrive in two exchanges pass above the limit.
    """
    counters, clock = Counters(), WindowClock()
    processes = [process(counters, clock) for _ in range(3)]
    limit, each_ms, admitted = 2_000, 400 / 1000, 0
    exchange_ms = int(EXCHANGE_S * 1000)
    due = [0.0, 0.0, 0.0]
    for ms in range(10_000):
        clock.at = START_MS + ms
        for number, windows in enumerate(processes):
            due[number] += each_ms
            while due[number] >= 1:
                due[number] -= 1
                admitted += windows.take([("key", limit)], clock.at).wait_s == 0
            if ms % exchange_ms == number * exchange_ms // 3:
                await windows.exchange()
    assert limit <= admitted <= limit + 1.2 * 2 * exchange_ms
    assert sum(counters.counts.values()) == admitted


async def test_requests_around_a_minute_boundary_are_counted_once() -> None:
    counters, clock = Counters(), WindowClock(START_MS + WINDOW_MS - 1)
    windows, other = process(counters, clock), process(counters, clock)
    assert took(windows, clock, 100, 30) == 30
    clock.at = START_MS + WINDOW_MS
    assert took(windows, clock, 100, 40) == 40
    await windows.exchange()
    assert counters.counts == {f"relay:limit:key:{MINUTE}": 30, f"relay:limit:key:{MINUTE + 1}": 40}
    took(other, clock, 100, 1)
    await other.exchange()
    assert took(other, clock, 100, 100) == 29


async def test_counts_taken_without_redis_are_shared_after_it_returns() -> None:
    counters, clock = Counters(), WindowClock()
    processes = [process(counters, clock) for _ in range(2)]
    counters.away = True
    for windows in processes:
        assert took(windows, clock, 10, 6) == 6
        await windows.exchange()
        assert took(windows, clock, 10, 6) == 4
    counters.away = False
    for windows in processes:
        await windows.exchange()
    assert counters.counts[f"relay:limit:key:{MINUTE}"] == 20


async def test_request_during_an_exchange_is_not_lost() -> None:
    window = Window("key", 10, MINUTE)
    window.take()
    index, count, _ = window.to_send()
    window.take()
    assert window.left(START_MS) == 8
    window.sent(index, count, 0)
    assert window.left(START_MS) == 8
    assert window.to_send() == (MINUTE, 1, 0)
    assert window.not_sent(MINUTE, 1) == 1
    window.to_send()
    assert window.not_sent(MINUTE, 1) == 0
    assert window.to_send() == (MINUTE, 1, 0)


async def test_expired_windows_are_removed() -> None:
    counters, clock = Counters(), WindowClock()
    windows = process(counters, clock)
    for number in range(100):
        windows.take([(str(number), 5)], clock.at)
    await windows.exchange()
    clock.at += 3 * WINDOW_MS
    await windows.exchange()
    assert len(windows) == 0


async def test_exchange_loop_continues_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = process(Counters(), WindowClock())
    calls = 0
    again = asyncio.Event()

    async def fail() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            again.set()
        raise ZeroDivisionError

    monkeypatch.setattr("services.api.http.access.rate_windows.EXCHANGE_S", 0)
    monkeypatch.setattr(windows, "exchange", fail)
    running = asyncio.create_task(windows.run())
    async with asyncio.timeout(20):
        await again.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
