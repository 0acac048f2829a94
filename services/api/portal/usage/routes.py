"""Show usage by hour, day or month, and by room, identity or kind, as a page or as CSV."""

from typing import Any, Final

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from msgspec import UNSET

from services.api.portal.dependencies import USAGE_DEPENDENCIES
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.usage.service import (
    completeness,
    peak_chart,
    read_usage,
    spans_of,
    title_of,
    usage_chart,
)
from services.api.usage.csv_answer import usage_csv
from services.api.usage.schemas import MAX_LIMIT, UsageAnswer
from services.api.usage.stream_backlog import Seen
from shared.errors import InvalidRequest
from shared.infra.postgres.pool import Connection
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock

PERIODS: Final = (("today", "Today"), ("7d", "7 days"), ("30d", "30 days"), ("all", "All"))
GROUPINGS: Final = (("", "Total"), ("room", "Room"), ("identity", "Identity"), ("kind", "Kind"))
GRANULARITIES: Final = (("hour", "Hour"), ("day", "Day"), ("month", "Month"))
# Limits a page to 150 kB: a longer range has a simpler chart or none. The CSV has every row.
_MOST_COLUMNS, _MOST_ROWS, _GROUPS = 200, 72, 50


class UsageController(Controller):
    path = "/projects/{project_id:str}"
    dependencies = USAGE_DEPENDENCIES

    @get("/usage")
    async def show(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        usage_clock: NamedDependency[UsageClock],
        backlog: NamedDependency[tuple[int, Seen]],
        conn: NamedDependency[Connection],
    ) -> Page:
        params = _params(page)
        asked_order = params.get("order")
        try:
            answer = await _read(conn, backlog, project_scope, params, usage_clock)
        except InvalidRequest as error:
            return page.render("usage.html", status=422, params=params, problem=spoken(error), **_LISTS)
        spans = spans_of(answer)
        drawable = len(spans) <= _MOST_COLUMNS
        return page.render(
            "usage.html",
            params=params,
            problem=None,
            answer=answer,
            spans=spans[-_MOST_ROWS:],
            cut=len(spans) > _MOST_ROWS,
            ranking_refused=asked_order == "minutes" and params.get("order") == "name",
            groups=answer.groups if answer.groups is not UNSET else None,
            rest=answer.rest if answer.rest is not UNSET else None,
            next_cursor=answer.next_cursor if answer.next_cursor is not UNSET else None,
            chart=usage_chart(answer) if drawable else None,
            peaks=peak_chart(answer) if drawable else None,
            shares=completeness(answer.totals),
            title_of=title_of,
            **_LISTS,
        )

    @get("/usage.csv")
    async def download(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        usage_clock: NamedDependency[UsageClock],
        backlog: NamedDependency[tuple[int, Seen]],
        conn: NamedDependency[Connection],
    ) -> Response[bytes]:
        answer = await _read(conn, backlog, project_scope, _params(page, limit=MAX_LIMIT), usage_clock)
        name = f"usage-{project_scope.project_id}-{page.mode}-{answer.from_[:10]}.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(usage_csv(answer), media_type="text/csv", headers=headers)


_LISTS: Final[dict[str, Any]] = {"periods": PERIODS, "groupings": GROUPINGS, "granularities": GRANULARITIES}


async def _read(
    conn: Connection, backlog: tuple[int, Seen], scope: Scope, params: dict[str, str], clock: UsageClock
) -> UsageAnswer:
    """Read usage, ordered by name if there are too many rooms or identities to order by minutes.

    Sets ``params["order"]`` in that case.
    """
    try:
        return await read_usage(conn, backlog, scope, params, clock)
    except InvalidRequest as error:
        if error.code != "too_many_groups":
            raise
    params["order"] = "name"
    return await read_usage(conn, backlog, scope, params, clock)


def _params(page: PageRequest, limit: int = _GROUPS) -> dict[str, str]:
    """Return the query of the page as parameters of `GET /v1/usage`. A date means its midnight."""
    given = page.request.query_params
    params: dict[str, str] = {}
    if given.get("from"):
        params["from"] = _midnight(given.get("from", ""))
        if given.get("to"):
            params["to"] = _midnight(given.get("to", ""))
    else:
        params["period"] = given.get("period") or "30d"
    for name in ("granularity", "groupBy", "order", "cursor"):
        if given.get(name):
            params[name] = given[name]
    if params.get("groupBy") in ("room", "identity"):
        params.setdefault("order", "name" if "cursor" in params else "minutes")
        params["limit"] = str(limit)
    else:
        params.pop("order", None)
        params.pop("cursor", None)
    return params


def _midnight(day: str) -> str:
    return f"{day}T00:00:00Z" if len(day) == 10 else day
