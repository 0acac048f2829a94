"""Cause each fault several times under load, and count all events each time: `python -m faults`."""

import argparse
import asyncio
import random
import sys
import time
from contextlib import ExitStack

from rich.console import Console
from rich.table import Table

from faults import memory
from faults.scenarios import FAULTS, Fault
from faults.sender import FaultCounts, FaultSender
from faults.stack import API_KEY, API_SECRET, FaultStack, faults_found, running
from services.cli.projects import create_project
from services.cli.simulate.traffic import Meeting, make_meeting
from shared.livekit.webhook import WebhookSigner

_PEOPLE = 12
_MEETING_MS = 1_800_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="of each fault (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=2000, help="events a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of load a round (default: %(default)s)")
    parser.add_argument("--outage", type=float, default=60, help="seconds that Postgres refuses (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", help="faults whose name contains this")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the meetings (default: random)")
    parser.add_argument(
        "--scenario",
        choices=("faults", "memory"),
        default="faults",
        help="memory: the api under a memory limit while clients without a key try to use it up (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, default=384, help="MiB of the api in the memory scenario (default: %(default)s)"
    )
    parser.add_argument(
        "--caddy", metavar="BINARY", help="memory scenario: through the shipped proxy, run by this Caddy"
    )
    arguments = parser.parse_args()
    if arguments.scenario == "memory":
        return asyncio.run(memory.run(arguments.limit, arguments.seconds, arguments.only, arguments.caddy))
    chosen = [fault for fault in FAULTS if arguments.only is None or arguments.only in fault.name]
    if not chosen:
        parser.error(f"no fault is called like that; there are: {', '.join(fault.name for fault in FAULTS)}")
    return asyncio.run(_run(chosen, arguments))


async def _run(chosen: list[Fault], arguments: argparse.Namespace) -> int:
    console, wrong = Console(width=140), 0
    table = Table(
        "fault",
        "round",
        "events",
        "offered/s",
        "all acked",
        "refused",
        "broken",
        "folded",
        "found",
        title=f"seed {arguments.seed}",
    )
    for fault in chosen:
        with ExitStack() as context:
            stack = context.enter_context(running())
            if fault.worker != "services.worker.main":
                stack.workers.pop().stop()
                stack.add_worker(fault.worker)
            for number in range(1, arguments.rounds + 1):
                counts, caught_up_s, found = await _round(stack, fault, arguments, number)
                wrong += bool(found)
                row = (
                    fault.name,
                    str(number),
                    f"{counts.acknowledged:,}",
                    f"{counts.acknowledged / counts.offered_s:,.0f}",
                    f"{counts.acknowledged_s:.1f} s",
                    str(counts.refused),
                    str(counts.broken),
                    f"+{caught_up_s:.1f} s",
                    "; ".join(found) or "nothing",
                )
                table.add_row(*row)
                # Also printed at once, because a run of many rounds may be stopped early.
                console.print("  ".join(row), markup=False)
    console.print(table)
    console.print(f"{len(chosen) * arguments.rounds - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


async def _round(
    stack: FaultStack, fault: Fault, arguments: argparse.Namespace, number: int
) -> tuple[FaultCounts, float, list[str]]:
    projects = [await create_project(stack.database, f"{fault.name} {number}.{index}") for index in range(2)]
    rng, now_ms = random.Random(f"{arguments.seed}-{fault.name}-{number}"), time.time_ns() // 1_000_000
    wanted, meetings = int(arguments.rate * arguments.seconds), list[Meeting]()
    while sum(len(meeting.events) for meeting in meetings) < wanted:
        owner = projects[len(meetings) % 2].project_id
        start_ms = now_ms - _MEETING_MS - rng.randrange(_MEETING_MS)
        meetings.append(
            make_meeting(rng, owner, "live", f"room-{len(meetings)}", _PEOPLE, start_ms, start_ms + _MEETING_MS)
        )
    events = sorted((event for meeting in meetings for event in meeting.events), key=lambda event: event.created_ms)
    sender = FaultSender(stack.url, WebhookSigner(API_KEY, API_SECRET), [event.body for event in events])
    sending = asyncio.create_task(sender.run(arguments.rate))
    await asyncio.sleep(arguments.seconds * rng.uniform(0.2, 0.4))
    await fault.strike(stack, arguments.outage)
    counts = await sending
    caught_up_s = await stack.drained()
    stays = [stay for meeting in meetings for stay in meeting.stays]
    return counts, caught_up_s, await faults_found(stack, projects, sender.acknowledged, stays)


if __name__ == "__main__":
    sys.exit(main())
