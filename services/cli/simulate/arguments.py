"""The arguments of `relay simulate`, apart from what sends: every command declares them, and few need what sending does."""

import argparse
from typing import get_args

from services.cli.command import bounded
from shared.ids import Mode

# LiveKit's own: `max_depth` and `max_age` of its `resource_url_notifier`.
QUEUE_DEPTH = 200
MAX_WAIT_S = 30.0
_LEAST_MEETING_S = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("--rooms", type=bounded(int, 1, 100_000), default=3, help="per project (default: %(default)s)")
    parser.add_argument("--people", type=bounded(int, 1, 10_000), default=4, help="per room (default: %(default)s)")
    parser.add_argument(
        "--rate",
        type=bounded(float, 0, 1e6),
        default=200.0,
        help="events a second, 0: as fast as taken (default: %(default)s)",
    )
    parser.add_argument(
        "--duration",
        type=bounded(int, _LEAST_MEETING_S, 30 * 86400),
        default=3600,
        help="seconds of meetings, which lie in the past and end now (default: %(default)s)",
    )
    parser.add_argument(
        "--events", type=bounded(int, 1, 10**8), help="add meetings until there are about this many events"
    )
    parser.add_argument("--loss", type=bounded(float, 0, 0.99), default=0.0, help="share of events never sent")
    parser.add_argument("--duplicate", type=bounded(float, 0, 1), default=0.0, help="share of events sent twice")
    parser.add_argument("--shuffle", action="store_true", help="mix up the order inside each room's queue")
    parser.add_argument(
        "--close-at-once",
        action="store_true",
        help="everybody stays to the end with two tracks; then every room is closed, and all its events are there at once",
    )
    parser.add_argument(
        "--queue-depth",
        type=bounded(int, 1, 10**7),
        default=QUEUE_DEPTH,
        help="`max_depth` of LiveKit's `resource_url_notifier` (default: %(default)s, LiveKit's own)",
    )
    parser.add_argument(
        "--queue-age",
        type=bounded(float, 0.1, 86400),
        default=MAX_WAIT_S,
        help="`max_age` of it in seconds (default: %(default)s, LiveKit's own)",
    )
    parser.add_argument("--seed", type=int, help="repeat a run (with the same projects); printed at the end")
    parser.add_argument("--mode", choices=get_args(Mode), default="live", help="(default: %(default)s)")
    parser.add_argument("--concurrency", type=bounded(int, 1, 10_000), default=64, help="requests under way at once")
    parser.add_argument("--timeout", type=bounded(float, 0.1, 600), default=30.0, help="seconds a request may take")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
