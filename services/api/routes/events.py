"""`GET /v1/events`: what LiveKit reported, as it reported it."""

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from services.api.context import Context
from services.api.cursors import Cursor
from services.api.openapi import described
from services.api.routes.sessions import Limit, Name, answer
from services.api.sessions import DEFAULT_LIMIT, events_for
from shared.models.names import Timestamp
from shared.models.projects import KeyRecord
from shared.models.scope import Scope
from shared.models.sessions import EventsAnswer


@get(
    "/events",
    operation_id="listEvents",
    tags=["usage"],
    summary="Kept events, those that LiveKit created last first",
    description="As LiveKit sent them. `session` is a participant sid; `from` and `to` are about when LiveKit created them.",
    opt=described(errors=("invalid_cursor",), answers=EventsAnswer),
)
async def list_events(
    request: Request[Any, Any, Any],
    key: NamedDependency[KeyRecord],
    context: NamedDependency[Context],
    event: FromQuery[Name | None] = None,
    room: FromQuery[Name | None] = None,
    identity: FromQuery[Name | None] = None,
    session: FromQuery[Name | None] = None,
    since: Annotated[Timestamp | None, QueryParameter(name="from")] = None,
    to: FromQuery[Timestamp | None] = None,
    limit: FromQuery[Limit] = DEFAULT_LIMIT,
    cursor: FromQuery[Cursor | None] = None,
) -> Response[bytes]:
    found = await events_for(context.pool, Scope(key.project_id, key.mode), request.query_params.dict())
    return answer(found)
