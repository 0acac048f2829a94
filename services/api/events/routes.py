"""`GET /v1/events`: what LiveKit reported, as it reported it."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

from services.api.context import Context
from services.api.http.openapi import described
from services.api.sessions.routes import answer
from services.api.sessions.schemas import EventsAnswer
from services.api.sessions.service import EventsQuery, events_for
from shared.models.projects import KeyRecord
from shared.models.scope import Scope


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
    params: NamedDependency[EventsQuery],
) -> Response[bytes]:
    found = await events_for(context.pool, Scope(key.project_id, key.mode), params)
    return answer(found)
