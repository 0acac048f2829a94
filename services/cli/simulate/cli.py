"""The options of `relay simulate`. The sender is loaded when the command runs."""

import asyncio
from typing import Any, get_args

import click

from services.cli.options import Invocation, Number, Whole, command
from services.cli.simulate.traffic_options import MAX_WAIT_S, QUEUE_DEPTH, TrafficOptions
from shared.infra.ids import Mode

_SHORTEST_S = 10


@command("simulate", "Send signed, realistic webhook traffic.", json=True)
@click.option("--rooms", type=Whole(1, 100_000), default=3, help="Rooms per project.")
@click.option("--people", type=Whole(1, 10_000), default=4, help="Participants per room.")
@click.option("--rate", type=Number(0, 1e6), default=200.0, help="Events a second; 0 is as fast as Relay accepts them.")
@click.option(
    "--duration",
    type=Whole(_SHORTEST_S, 30 * 86400),
    default=3600,
    help="Length of the meetings in seconds. They end now.",
)
@click.option("--events", type=Whole(1, 10**8), help="Add meetings until there are about this many events.")
@click.option("--loss", type=Number(0, 0.99), default=0.0, help="Share of events that are never sent.")
@click.option("--duplicate", type=Number(0, 1), default=0.0, help="Share of events that are sent twice.")
@click.option("--shuffle", is_flag=True, help="Send the events of each room in random order.")
@click.option(
    "--close-at-once",
    is_flag=True,
    help="Keep everybody connected with two tracks, then close all rooms at the same time.",
)
@click.option(
    "--queue-depth",
    type=Whole(1, 10**7),
    default=QUEUE_DEPTH,
    help="`max_depth` of LiveKit's `resource_url_notifier`; the default is LiveKit's.",
)
@click.option(
    "--queue-age",
    type=Number(0.1, 86400),
    default=MAX_WAIT_S,
    help="`max_age` of LiveKit's `resource_url_notifier`, in seconds; the default is LiveKit's.",
)
@click.option("--seed", type=Whole(), help="Repeat a run for the same projects. Every run prints its seed.")
@click.option("--mode", type=click.Choice(get_args(Mode)), default="live", help="Mode of the rooms.")
@click.option("--concurrency", type=Whole(1, 10_000), default=64, help="Requests in flight at the same time.")
@click.option("--timeout", type=Number(0.1, 600), default=30.0, help="Seconds a request may take.")
def simulate(invocation: Invocation, **options: Any) -> int:
    from services.cli.instance import settings_of
    from services.cli.projects import list_projects
    from services.cli.simulate.run import NoProject, Target, run

    settings = settings_of(invocation)
    projects = asyncio.run(list_projects(settings.database))
    if not projects:
        raise NoProject
    target = Target(
        url=settings.own_url,
        api_key=settings.livekit_api_key,
        api_secret=settings.livekit_api_secret,
        projects=[(project.project_id, project.name) for project in projects],
    )
    return asyncio.run(run(TrafficOptions(**options), target, json=invocation.json))
