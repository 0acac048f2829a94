"""Show the overview of a project: current state, today, the last 30 days, and LiveKit's webhooks."""

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.response import ServerSentEvent

from services.api.portal.dependencies import USAGE_DEPENDENCIES
from services.api.portal.overview.live_updates import Watcher
from services.api.portal.overview.service import QUIET_MS, first_steps, refused_webhooks
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.portal import Portal
from services.api.portal.usage.service import completeness, read_usage, spans_of, usage_chart
from services.api.usage.stream_backlog import Seen
from shared.audit_log import queries as audit_log
from shared.infra.postgres.pool import Connection
from shared.keys import service as keys
from shared.models.accounts import Account, BrowserSession
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock
from shared.usage.queries import overview as queries

_ROOMS_SHOWN = 6


class OverviewController(Controller):
    path = "/projects/{project_id:str}"

    @get(dependencies=USAGE_DEPENDENCIES)
    async def show(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        usage_clock: NamedDependency[UsageClock],
        backlog: NamedDependency[tuple[int, Seen]],
        conn: NamedDependency[Connection],
        portal: NamedDependency[Portal],
    ) -> Page:
        answer = await read_usage(conn, backlog, project_scope, {"period": "30d"}, usage_clock)
        live = await queries.live_now(conn, project_scope, usage_clock, _ROOMS_SHOWN)
        webhooks = await queries.webhooks(conn, project_scope, page.now_ms)
        known = await keys.list_keys(conn, project_scope.project_id, page.mode)
        # The last use of a key is stored with a delay. A token from the quickstart page counts at once.
        minted = await audit_log.was_done(conn, project_scope.project_id, "test_token_minted")
        used = minted or any(key.last_used_at is not None for key in known)
        return page.render(
            "overview.html",
            live=live,
            today=spans_of(answer)[-1],
            answer=answer,
            peak=max(span.peak_participants for span in spans_of(answer)),
            chart=usage_chart(answer),
            shares=completeness(answer.totals),
            webhooks=webhooks,
            refused=refused_webhooks(),
            started_ms=portal.started_ms,
            is_quiet=live.people > 0 and page.now_ms - (webhooks.last_ms or 0) > QUIET_MS,
            steps=first_steps(page.mode, answer, webhooks, used=used),
        )

    @get("/live")
    async def live(
        self,
        account: NamedDependency[Account],
        session: NamedDependency[BrowserSession],
        project_scope: NamedDependency[Scope],
        portal: NamedDependency[Portal],
    ) -> Response[str] | ServerSentEvent:
        """Stream to an open page when it is out of date."""
        stream = await portal.live.open(Watcher(project_scope, account.account_id, session.digest))
        if stream is None:
            return Response("", status_code=429, headers={"retry-after": "60"}, media_type="text/plain")
        return ServerSentEvent(stream)
