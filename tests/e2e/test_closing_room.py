"""A room of 500 people with two tracks each closes at once.

`relay simulate` models LiveKit's webhook queue and sends to a running Relay.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from faults.parts import ROOT
from faults.stack import FaultStack, running
from services.cli.doctor.livekit_config import WANTED_DEPTH
from services.cli.projects import create_project
from services.cli.simulate.totals import DayExpected
from services.cli.simulate.traffic_options import MAX_WAIT_S, QUEUE_DEPTH
from shared.infra.settings import inherited_environment
from tests.conftest import in_memory

PEOPLE = 500
BURST = 3 * PEOPLE + 1


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running(in_memory()) as stack:
        yield stack


def simulate(stack: FaultStack, *options: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "simulate", "--close-at-once", "--json", "--rooms", "1", *options],
        cwd=ROOT,
        env=inherited_environment(stack.environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


async def test_closing_a_room_of_500_people_loses_no_event(stack: FaultStack) -> None:
    """No event is dropped with the queue depth that `relay doctor` recommends.

    The last event waits for all before it, so Relay's time for one acknowledgement decides whether it becomes too old for
    LiveKit. Half of the events must be acknowledged fast enough for that. A pause of this machine says nothing about Relay, so
    no event becomes too old here.
    """
    project = await create_project(stack.database, "closing")
    options = ("--people", str(PEOPLE), "--rate", "400", "--queue-depth", str(WANTED_DEPTH), "--queue-age", "600")
    report = await asyncio.to_thread(simulate, stack, *options)
    sent, queueing = report["sent"], report["queueing"]
    assert sent["generated"] == sent["acknowledged"] == 2 * BURST
    assert {sent[name] for name in ("droppedQueueFull", "droppedTooOld", "givenUp", "refused", "retried")} == {0}
    assert BURST - 1 <= queueing["deepest"] <= WANTED_DEPTH
    assert queueing["acknowledgedP50Ms"] * BURST < MAX_WAIT_S * 1000
    await stack.drained()
    expected = [DayExpected(day["projectId"], "live", *list(day.values())[2:]) for day in report["expected"]]
    assert [day.peak_participants for day in expected][-1] == PEOPLE
    assert await stack.sums([project]) == expected
    assert stack.verify() == ""
    print(f"{BURST} events at once: {queueing}")


async def test_simulated_queue_drops_events_beyond_livekit_depth(stack: FaultStack) -> None:
    """At LiveKit's default queue depth most of the burst is dropped before it reaches Relay."""
    report = await asyncio.to_thread(simulate, stack, "--people", "200", "--rate", "1000", "--mode", "test")
    assert report["queueing"]["deepest"] == QUEUE_DEPTH
    assert report["sent"]["droppedQueueFull"] >= 601 - 2 * QUEUE_DEPTH
    assert not report["complete"]
