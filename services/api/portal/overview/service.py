"""Compute the first steps of a project, and the state of its webhooks."""

from typing import NamedTuple

from services.api.usage.schemas import UsageAnswer
from shared.infra import metrics
from shared.infra.ids import Mode
from shared.models.usage.overview import Webhooks

# Counters of webhooks with a valid signature, and of the probe of `relay doctor`.
_ACCEPTED = ("kept", "inbox", "not_kept", "probe")
# The overview warns when people are connected and the last webhook is older than this.
QUIET_MS = 10 * 60_000


class Step(NamedTuple):
    """One of the first steps of a project."""

    title: str
    text: str
    done: bool
    page: str
    action: str


def refused_webhooks() -> int:
    """Return the number of webhooks that this process refused."""
    return sum(count for verdict, count in metrics.webhooks.counts().items() if verdict not in _ACCEPTED)


def first_steps(mode: Mode, answer: UsageAnswer, webhooks: Webhooks, *, used: bool) -> list[Step]:
    """Return the first steps, or nothing if all are done. ``used``: a token has been minted."""
    received = webhooks.last_ms is not None
    others = " It already does, for other projects." if webhooks.instance_last_ms is not None else ""
    steps = [
        Step(
            "Create the project", "Its keys were shown once. You can create more at any time.", True, "keys", "API keys"
        ),
        Step(
            "Mint a token",
            "Use a test token from here, or a key in your backend.",
            used or received,
            "quickstart",
            "Quickstart",
        ),
        Step(
            "Connect LiveKit's webhook",
            "LiveKit reports to Relay who joins and who leaves." + others,
            received or webhooks.instance_last_ms is not None,
            "quickstart",
            "livekit.yaml",
        ),
        Step(
            "See the first usage",
            f"Join a room. The minutes appear here, in {mode} mode.",
            answer.totals.sessions > 0,
            "quickstart",
            "Join a room",
        ),
    ]
    return [] if all(step.done for step in steps) else steps
