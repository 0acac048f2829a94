"""`relay events`: list, replay and delete events that the meter could not use."""

import asyncio
import time

import click

from services.cli.instance import database_of
from services.cli.options import Invocation, Text, Whole, command, group
from services.cli.output import print_json
from services.cli.projects import transaction
from shared.events import set_aside
from shared.events.queries import set_aside as queries
from shared.infra.settings import DatabaseUrl
from shared.models.set_aside import SetAsideEvent
from shared.models.wire import Wire

_ID = Whole(1, 2**63 - 1)
events = group("events", "List, replay and delete events that could not be metered.")


class SetAsideItem(Wire):
    """One event as `--json` prints it. In ``body``, bytes that are not UTF-8 are replaced."""

    id: int
    received_at: str
    reason: str
    detail: str
    body: str


class SetAsideList(Wire):
    """A page of events.

    ``counts`` counts all events that are set aside, by reason. ``next_before`` continues the list and is null at its end.
    """

    counts: dict[str, int]
    events: list[SetAsideItem]
    next_before: int | None


async def list_set_aside(database: DatabaseUrl, reason: str | None, before: int | None, limit: int) -> SetAsideList:
    """List the newest events with an id below ``before``, at most ``limit`` of them."""
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


async def replay_events(database: DatabaseUrl, ids: list[int], reason: str | None) -> int:
    """Return events to the worker: those with these ids, or else all, or all of one reason.

    Returns their number.
    """
    now_ms = time.time_ns() // 1_000_000
    async with transaction(database) as conn:
        if not ids:
            return await set_aside.replay_all(conn, now_ms, reason)
        await set_aside.replay(conn, ids, now_ms)
    return len(set(ids))


async def dismiss_events(database: DatabaseUrl, ids: list[int]) -> int:
    """Delete these events permanently. Returns their number."""
    async with transaction(database) as conn:
        await set_aside.dismiss(conn, ids)
    return len(set(ids))


@command("set-aside", "List events that could not be metered, newest first.", of=events, json=True)
@click.option("--reason", type=Text(), help="List events of this reason only.")
@click.option("--limit", type=Whole(1, 1000), default=50, help="Number of events.")
@click.option("--before", type=_ID, metavar="ID", help="Continue a list below this id.")
@click.option("--bodies", is_flag=True, help="Also print what LiveKit sent.")
def listing(invocation: Invocation, reason: str | None, limit: int, before: int | None, bodies: bool) -> int:
    found = asyncio.run(list_set_aside(database_of(invocation), reason, before, limit))
    if invocation.json:
        print_json(found)
        return 0
    if not found.counts:
        print("No event is set aside.")
        return 0
    print("set aside: " + ", ".join(f"{count} {reason}" for reason, count in found.counts.items()))
    for event in found.events:
        print(f"{event.id}  {event.received_at}  {event.reason}: {event.detail}")
        if bodies:
            print(f"    {event.body}")
    if found.next_before is not None:
        print(f"older events: add --before {found.next_before}")
    return 0


@command(
    "replay",
    "Return events that were set aside to the worker.",
    more="`relay events set-aside` shows each ID.",
    of=events,
    json=True,
)
@click.option("--all", "everything", is_flag=True, help="Replay all of them.")
@click.option("--reason", type=Text(), help="Replay all of this reason.")
@click.argument("ids", nargs=-1, type=_ID, metavar="[ID]...")
def replay(invocation: Invocation, ids: tuple[int, ...], everything: bool, reason: str | None) -> int:
    if bool(ids) == (everything or reason is not None):
        raise click.UsageError(
            "name the events to replay by their ids, or give --all or --reason", click.get_current_context()
        )
    count = asyncio.run(replay_events(database_of(invocation), list(ids), reason))
    if invocation.json:
        print_json({"replayed": count})
    else:
        print(
            f"{count} event{'s' if count != 1 else ''} returned to the worker;"
            " those that still cannot be metered are set aside again"
        )
    return 0


@command(
    "dismiss",
    "Delete events that were set aside. They cannot be restored.",
    more="`relay events set-aside` shows each ID.",
    of=events,
    json=True,
)
@click.argument("ids", nargs=-1, required=True, type=_ID, metavar="ID...")
def dismiss(invocation: Invocation, ids: tuple[int, ...]) -> int:
    count = asyncio.run(dismiss_events(database_of(invocation), list(ids)))
    if invocation.json:
        print_json({"dismissed": count})
    else:
        print(f"{count} event{'s' if count != 1 else ''} deleted")
    return 0
