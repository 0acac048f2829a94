"""What a project's people look at first: right now, today, the last 30 days, how sure the numbers are, LiveKit's reports."""

from typing import NamedTuple

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.response import ServerSentEvent

from services.api.portal.usage_view import asked, completeness, read_usage, spans_of, usage_chart
from services.api.portal.visit import Page, Visit
from services.api.usage.schemas import UsageAnswer
from shared.audit_log import queries as audit_log
from shared.infra import metrics
from shared.keys import service as keys
from shared.models.usage.overview import Webhooks
from shared.usage.queries import overview as queries

_ROOMS_SHOWN = 6
# Verdicts on a webhook whose signature was right, and `relay doctor` asking.
_TAKEN = ("kept", "inbox", "not_kept", "probe")
# A webhook older than this, while people are connected, is worth a word.
QUIET_MS = 10 * 60_000


class Step(NamedTuple):
    """One of the first visit's steps."""

    title: str
    text: str
    done: bool
    page: str
    action: str


class OverviewController(Controller):
    path = "/projects/{project_id:str}"

    @get()
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        answer = await read_usage(visit, {"period": "30d"})
        async with visit.reading() as conn:
            live = await queries.live_now(conn, visit.scope, asked(visit), _ROOMS_SHOWN)
            webhooks = await queries.webhooks(conn, visit.scope, visit.now_ms)
            known = await keys.list_keys(conn, visit.project.project_id, visit.mode)
            # When a key was last used is written a little later; a token from the quickstart page shows at once.
            minted = await audit_log.was_done(conn, visit.project.project_id, "test_token_minted")
        used = minted or any(key.last_used_at is not None for key in known)
        steps = _steps(visit, answer, webhooks, used=used)
        return visit.page(
            "overview.html",
            live=live,
            today=spans_of(answer)[-1],
            answer=answer,
            peak=max(span.peak_participants for span in spans_of(answer)),
            chart=usage_chart(answer),
            shares=completeness(answer.totals),
            webhooks=webhooks,
            refused=sum(count for verdict, count in metrics.webhooks.counts().items() if verdict not in _TAKEN),
            is_quiet=live.people > 0 and visit.now_ms - (webhooks.last_ms or 0) > QUIET_MS,
            steps=[] if all(step.done for step in steps) else steps,
        )

    @get("/live")
    async def live(self, visit: NamedDependency[Visit]) -> Response[str] | ServerSentEvent:
        """Tells an open page when it is out of date."""
        stream = await visit.portal.live.open(visit)
        if stream is None:
            return Response("", status_code=429, headers={"retry-after": "60"}, media_type="text/plain")
        return ServerSentEvent(stream)


def _steps(visit: Visit, answer: UsageAnswer, webhooks: Webhooks, *, used: bool) -> list[Step]:
    heard = webhooks.last_ms is not None
    return [
        Step(
            "Create the project",
            "Its keys were shown when it was created; make more at any time.",
            True,
            "keys",
            "API keys",
        ),
        Step(
            "Mint a token",
            "With a test token from here, or with a key from your backend.",
            used or heard,
            "quickstart",
            "Quickstart",
        ),
        Step(
            "Connect LiveKit's webhook",
            "LiveKit reports to Relay who joins and leaves."
            + (" It does already, for other projects." if webhooks.instance_last_ms is not None else ""),
            heard or webhooks.instance_last_ms is not None,
            "quickstart",
            "livekit.yaml",
        ),
        Step(
            "See the first usage",
            f"Join a room: the minutes appear here, in {visit.mode} mode.",
            answer.totals.sessions > 0,
            "quickstart",
            "Join a room",
        ),
    ]
