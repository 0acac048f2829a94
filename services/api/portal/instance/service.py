"""Check the health of the instance by asking each part when the page is opened.

Each check has its own time-out, so a part that does not answer makes its line red and does not slow the page down.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

import asyncpg

from services.api.portal.portal import Portal
from services.api.portal.transactions import Transactions
from shared.errors import LiveKitError, StoreUnavailable
from shared.events.queries import partitions, set_aside
from shared.infra.clock import DAY_MS, floor_to
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.postgres.pool import UNAVAILABLE
from shared.infra.redis import event_stream
from shared.ledger.queries import reconcile
from shared.models.operations import Pass, WorkerRow
from shared.operations.queries import workers as operations

TIMEOUT_S = 2.0
_PASSES = 10
_DAYS_AHEAD = 2
T = TypeVar("T")


class Check(NamedTuple):
    """One line of the page. ``tone``: good, warn or bad. ``text`` says what to do if it is not good."""

    name: str
    tone: str
    text: str


class Health(NamedTuple):
    """The content of the health page.

    ``set_aside``: by reason. ``partitions``: the first and the last day in unix ms.
    """

    checks: list[Check]
    workers: list[WorkerRow]
    passes: list[Pass]
    set_aside: dict[str, int]
    partitions: tuple[int, int] | None


async def health_of(portal: Portal, transactions: Transactions, now_ms: int) -> Health:
    """Ask Postgres, Redis and LiveKit at the same time."""
    postgres, redis, livekit = await asyncio.gather(
        _postgres(portal, transactions, now_ms), _redis(portal, now_ms), _livekit(portal)
    )
    checks, rest = postgres
    return Health([*checks, *redis, livekit], *rest)


_Rest = tuple[list[WorkerRow], list[Pass], dict[str, int], tuple[int, int] | None]


async def _timed(work: Awaitable[T]) -> tuple[T, int]:
    started = time.monotonic()
    async with asyncio.timeout(TIMEOUT_S):
        found = await work
    return found, round((time.monotonic() - started) * 1000)


async def _postgres(portal: Portal, transactions: Transactions, now_ms: int) -> tuple[list[Check], _Rest]:
    try:
        async with asyncio.timeout(TIMEOUT_S * 2), transactions.reading() as conn:
            missing, took_ms = await _timed(missing_migrations(conn, known_migrations()))
            state = await operations.machine_state(conn, now_ms)
            workers = await operations.workers(conn)
            passes = await reconcile.last_passes(conn, _PASSES)
            aside = await set_aside.count_set_aside(conn)
            days = await partitions.days_with_partition(conn)
    except (*UNAVAILABLE, asyncpg.PostgresError, StoreUnavailable):
        return [Check("Postgres", "bad", "cannot be reached")], ([], [], {}, None)
    checks = [
        Check("Postgres", "good", f"answers in {took_ms} ms")
        if not missing
        else Check("Postgres", "bad", "migrations are pending: run `relay migrate`"),
        Check("Workers", "good", f"{state.workers} running")
        if state.workers
        else Check(
            "Workers",
            "bad",
            "no worker is running: events wait in Redis and usage is not updated. Start `relay worker`",
        ),
        _partitions(days, now_ms),
        Check("Inbox", "warn", f"{state.inbox} events wait in Postgres, received while Redis was unavailable")
        if state.inbox
        else Check("Inbox", "good", "empty"),
        Check("Set aside", "warn", f"{state.set_aside} events could not be used")
        if state.set_aside
        else Check("Set aside", "good", "none"),
        _reconciliation(portal.settings.reconcile_interval_s, passes, now_ms),
    ]
    return checks, (workers, passes, aside, (min(days), max(days)) if days else None)


def _partitions(days: list[int], now_ms: int) -> Check:
    today = floor_to(now_ms, DAY_MS)
    missing = [day for day in range(today, today + _DAYS_AHEAD * DAY_MS, DAY_MS) if day not in days]
    if missing:
        return Check(
            "Partitions", "warn", "the one of today or tomorrow is missing: a worker creates it within minutes"
        )
    return Check("Partitions", "good", f"{len(days)} days of raw events")


def _reconciliation(every_s: int, passes: list[Pass], now_ms: int) -> Check:
    if not every_s:
        return Check("Reconciliation", "warn", "switched off: lost webhooks are not recovered")
    if not passes:
        return Check("Reconciliation", "warn", "has not run yet")
    last = passes[0]
    if last.error:
        return Check("Reconciliation", "warn", f"the last pass failed: {last.error}")
    if now_ms - last.started_ms > 4 * every_s * 1000 + 60_000:
        return Check("Reconciliation", "warn", "has not run for a while: check that a worker is running")
    return Check("Reconciliation", "good", f"every {every_s} s, {last.participants} participants at the last pass")


async def _redis(portal: Portal, now_ms: int) -> list[Check]:
    redis = portal.redis
    try:
        (lengths, took_ms), (oldest_ms, _), (durable, _) = await asyncio.gather(
            _timed(event_stream.lengths(redis)),
            _timed(event_stream.oldest_unfolded_ms(redis)),
            _timed(event_stream.is_durable(redis)),
        )
    except event_stream.UNAVAILABLE:
        return [Check("Redis", "bad", "cannot be reached: webhooks go to the inbox in Postgres")]
    waiting = sum(lengths)
    age_s = 0 if oldest_ms is None else max(0, now_ms - oldest_ms) // 1000
    checks = [
        Check("Redis", "warn", "does not sync its append-only file: a crash can lose acknowledged webhooks")
        if durable is False
        else Check("Redis", "good", f"answers in {took_ms} ms"),
        Check("Streams", "warn" if age_s > 30 else "good", f"{waiting} events wait, the oldest for {age_s} s")
        if waiting
        else Check("Streams", "good", "no events wait"),
    ]
    return checks


async def _livekit(portal: Portal) -> Check:
    try:
        _, took_ms = await _timed(portal.patience.ask(portal.livekit.list_rooms(["relay-health"])))
    except LiveKitError as error:
        return Check("LiveKit", "bad", str(error))
    return Check("LiveKit", "good", f"answers in {took_ms} ms at {portal.settings.livekit_api_url}")
