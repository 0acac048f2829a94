"""Plan the traffic of `relay simulate`, send it and print the result."""

import asyncio
import random
import time
from typing import NamedTuple

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.output import print_error, print_json
from services.cli.simulate.closing import make_closing_room
from services.cli.simulate.sender import Sender
from services.cli.simulate.totals import DayExpected, expected
from services.cli.simulate.traffic import Event, Stay, make_meeting
from services.cli.simulate.traffic_options import TrafficOptions
from shared.errors import RelayError
from shared.livekit.webhook import WebhookSigner


class NoProject(RelayError):
    """There is no project to simulate traffic for."""

    def __init__(self) -> None:
        super().__init__("there is no project to simulate traffic for; create one with `relay projects create NAME`")


class Target(NamedTuple):
    """The address, the LiveKit key pair that signs, and the projects (id, name) of a run."""

    url: str
    api_key: str
    api_secret: str
    projects: list[tuple[str, str]]


class Traffic(NamedTuple):
    """The events to send, in order, and the sessions that they describe."""

    events: list[Event]
    stays: list[Stay]
    generated: int
    lost: int
    duplicated: int
    # Index of the first event that is sent without pacing, because its room closes.
    closing: int


def plan(options: TrafficOptions, projects: list[tuple[str, str]], now_ms: int, seed: int) -> Traffic:
    """Plan the traffic of a run. The same seed, projects and time give the same bytes."""
    rng = random.Random(seed)  # noqa: S311 - repeatable test traffic, no secret
    end_ms = now_ms - 1000
    start_ms = end_ms - options.duration * 1000
    events: list[Event] = []
    stays: list[Stay] = []
    round_number = 0
    while not round_number or (options.events is not None and len(events) < options.events):
        for project_id, _ in projects:
            for number in range(options.rooms):
                display = f"room-{number}" if not round_number else f"room-{number}-{round_number}"
                make = make_closing_room if options.close_at_once else make_meeting
                meeting = make(rng, project_id, options.mode, display, options.people, start_ms, end_ms)
                events += meeting.events
                stays += meeting.stays
        round_number += 1
    generated = len(events)
    kept = [event for event in events if rng.random() >= options.loss] if options.loss else events
    repeats = [event for event in kept if rng.random() < options.duplicate] if options.duplicate else []
    offered = sorted([*kept, *repeats], key=lambda event: event.created_ms)
    if options.shuffle:
        rng.shuffle(offered)
    closing = len(offered)
    if options.close_at_once:
        end_ms -= end_ms % 1000
        offered.sort(key=lambda event: event.created_ms == end_ms)
        closing = sum(1 for event in offered if event.created_ms < end_ms)
    return Traffic(offered, stays, generated, generated - len(kept), len(repeats), closing)


async def run(options: TrafficOptions, target: Target, *, json: bool) -> int:
    """Send the traffic and print the result. Return 0 if every event was acknowledged, else 1."""
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
    traffic = plan(options, target.projects, time.time_ns() // 1_000_000, seed)
    limits = httpx.Limits(max_connections=options.concurrency, max_keepalive_connections=options.concurrency)
    started = time.monotonic()
    async with httpx.AsyncClient(
        base_url=target.url, limits=limits, timeout=options.timeout, trust_env=False
    ) as client:
        signer = WebhookSigner(target.api_key, target.api_secret)
        sender = Sender(
            client,
            signer,
            concurrency=options.concurrency,
            paced=options.rate > 0,
            depth=options.queue_depth,
            max_wait_s=options.queue_age,
        )
        await _offer_all(sender, traffic, options.rate)
    seconds = time.monotonic() - started
    counts = sender.counts
    counts.generated, counts.lost, counts.duplicated = traffic.generated, traffic.lost, traffic.duplicated
    days = expected(traffic.stays)
    complete = counts.acknowledged == len(traffic.events)
    if json:
        document = {
            "seed": seed,
            "seconds": round(seconds, 3),
            "sent": counts,
            "queueing": sender.queueing(),
            "complete": complete,
            "expected": days,
        }
        print_json(document)
    else:
        _report(sender, days, dict(target.projects), seed, seconds, traffic.lost)
    if not complete:
        print_error(
            f"{len(traffic.events) - counts.acknowledged} of {len(traffic.events)} events were not acknowledged by"
            f" {target.url}; the last answer was: {sender.last_error or 'none'}"
        )
    return 0 if complete else 1


async def _offer_all(sender: Sender, traffic: Traffic, rate: float) -> None:
    events = traffic.events
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("events", total=len(events))
        started = time.monotonic()
        for number, event in enumerate(events):
            paced = bool(rate) and number < traffic.closing
            ahead_s = number / rate - (time.monotonic() - started) if paced else 0.0
            if ahead_s > 0.002:
                await asyncio.sleep(ahead_s)
            elif number % 16 == 0 and (paced or not rate):
                await asyncio.sleep(0)  # late, but the queues still need the event loop
            await sender.offer(event)
            if number % 50 == 0:
                progress.update(bar, completed=number)
        await sender.finish()
        progress.update(bar, completed=len(events))


def _report(
    sender: Sender, days: list[DayExpected], names: dict[str, str], seed: int, seconds: float, lost: int
) -> None:
    c = sender.counts
    print(
        f"{c.generated} events in {seconds:.1f} s with seed {seed}: {c.acknowledged} acknowledged in {c.sent} requests"
    )
    print(f"left out on purpose: {c.lost}; sent twice: {c.duplicated}; retried: {c.retried}; refused: {c.refused}")
    print(
        f"dropped, as LiveKit would: {c.given_up} after four retries, {c.dropped_queue_full} because a queue was full,"
        f" {c.dropped_too_old} because they waited too long"
    )
    dropped = lost or c.given_up or c.dropped_queue_full or c.dropped_too_old or c.refused
    q = sender.queueing()
    print(
        f"acknowledged after {q.acknowledged_p50_ms} ms (median), {q.acknowledged_p99_ms} ms (99 %), {q.acknowledged_max_ms} ms"
        f" (slowest); longest queue {q.deepest} events, longest wait {q.longest_wait_ms} ms"
    )
    print("Expected usage" + (" if no event had been lost:" if dropped else ":"))
    for day in days:
        print(
            f"  {day.date}  {names[day.project_id]} ({day.project_id}, {day.mode}): {day.participant_ms / 60_000:.3f} minutes,"
            f" video {day.video_ms / 60_000:.3f}, audio {day.audio_ms / 60_000:.3f}, peak {day.peak_participants}"
        )
