"""`relay events`: what the meter could not use, and giving it to the fold again."""

import argparse
import asyncio
import time

from services.cli.command import print_json
from services.cli.projects import transaction
from shared import set_aside
from shared.models.set_aside import SetAsideEvent
from shared.models.wire import Wire
from shared.queries import set_aside as queries
from shared.settings import DatabaseUrl


class SetAsideItem(Wire):
    """One event as `--json` prints it; ``body`` is text, with what is no UTF-8 replaced."""

    id: int
    received_at: str
    reason: str
    detail: str
    body: str


class SetAsideList(Wire):
    """``counts`` is by reason, of all; ``next_before`` continues the list and is null at its end."""

    counts: dict[str, int]
    events: list[SetAsideItem]
    next_before: int | None


async def list_set_aside(database: DatabaseUrl, reason: str | None, before: int | None, limit: int) -> SetAsideList:
    async with transaction(database) as conn:
        counts = await queries.count_set_aside(conn)
        page = await queries.page_of_set_aside(conn, reason=reason, before_id=before, limit=limit + 1)
    more = len(page) > limit
    page = page[:limit]
    return SetAsideList(
        counts=counts, events=[_item(event) for event in page], next_before=page[-1].id if more else None
    )


def _item(event: SetAsideEvent) -> SetAsideItem:
    return SetAsideItem(
        id=event.id,
        received_at=event.received_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        reason=event.reason,
        detail=event.detail,
        body=event.body.decode(errors="replace"),
    )


async def replay(database: DatabaseUrl, ids: list[int], reason: str | None) -> int:
    """Replays these events, or all (of a reason) where none is named; returns how many."""
    now_ms = time.time_ns() // 1_000_000
    async with transaction(database) as conn:
        if not ids:
            return await set_aside.replay_all(conn, now_ms, reason)
        await set_aside.replay(conn, ids, now_ms)
    return len(set(ids))


async def dismiss(database: DatabaseUrl, ids: list[int]) -> int:
    async with transaction(database) as conn:
        await set_aside.dismiss(conn, ids)
    return len(set(ids))


def run_list(arguments: argparse.Namespace, database: DatabaseUrl) -> int:
    found = asyncio.run(list_set_aside(database, arguments.reason, arguments.before, arguments.limit))
    if arguments.json:
        print_json(found)
        return 0
    if not found.counts:
        print("No event is set aside.")
        return 0
    print("set aside: " + ", ".join(f"{count} {reason}" for reason, count in found.counts.items()))
    for event in found.events:
        print(f"{event.id}  {event.received_at}  {event.reason}: {event.detail}")
        if arguments.bodies:
            print(f"    {event.body}")
    if found.next_before is not None:
        print(f"older ones: --before {found.next_before}")
    return 0


def run_replay(arguments: argparse.Namespace, database: DatabaseUrl) -> int:
    count = asyncio.run(replay(database, arguments.ids, arguments.reason))
    if arguments.json:
        print_json({"replayed": count})
    else:
        print(f"to the worker again: {count}; what is still of no use will be set aside again")
    return 0


def run_dismiss(arguments: argparse.Namespace, database: DatabaseUrl) -> int:
    count = asyncio.run(dismiss(database, arguments.ids))
    if arguments.json:
        print_json({"dismissed": count})
    else:
        print(f"{count} event{'s' if count != 1 else ''} deleted")
    return 0
