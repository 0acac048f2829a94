"""List the events that LiveKit sent: `GET /v1/events`."""

from litestar import Response, get
from litestar.di import NamedDependency

from services.api.events.schemas import EventsAnswer, EventsQuery
from services.api.events.service import events_for
from services.api.http.openapi import described
from services.api.http.requests import uncached_json
from shared.infra.postgres.pool import Pool
from shared.models.scope import Scope


@get(
    "/events",
    operation_id="listEvents",
    tags=["usage"],
    summary="List the retained events",
    description=(
        "As LiveKit sent them, newest first. `from` and `to` select by the time at which LiveKit created an event. `session`"
        " is a participant sid."
    ),
    opt=described(errors=("invalid_cursor",), answers=EventsAnswer),
)
async def list_events(
    pool: NamedDependency[Pool],
    project_scope: NamedDependency[Scope],
    params: NamedDependency[EventsQuery],
) -> Response[bytes]:
    return uncached_json(await events_for(pool, project_scope, params))
