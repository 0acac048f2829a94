"""`GET /v1/sessions`: who was connected, when, and what of it is billed."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from services.api.context import Context
from services.api.http.openapi import described
from services.api.sessions.schemas import ListedSession, SessionsAnswer
from services.api.sessions.service import SessionsQuery, session_for, sessions_for
from shared.models.projects import KeyRecord
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock

Sid = Annotated[
    str, msgspec.Meta(max_length=512, description="LiveKit's participant sid.", examples=["PA_k3v9x2m7q4w8"])
]


@get(
    "/sessions",
    operation_id="listSessions",
    tags=["usage"],
    summary="Sessions, those that began last first",
    description="One participant sid each: a reconnect is a new one. `from` and `to` are about when they began.",
    opt=described(errors=("invalid_cursor",), answers=SessionsAnswer),
)
async def list_sessions(
    request: Request[Any, Any, Any],
    key: NamedDependency[KeyRecord],
    context: NamedDependency[Context],
    params: NamedDependency[SessionsQuery],
) -> Response[bytes]:
    asked = UsageClock(context.clock.now_ms(), context.stale_ms)
    scope = Scope(key.project_id, key.mode)
    found = await sessions_for(context.pool, scope, params, asked)
    return answer(found)


@get(
    "/sessions/{sid:str}",
    operation_id="getSession",
    tags=["usage"],
    summary="A session with its tracks",
    opt=described(errors=("session_not_found",), answers=ListedSession),
)
async def get_session(
    key: NamedDependency[KeyRecord], context: NamedDependency[Context], sid: FromPath[Sid]
) -> Response[bytes]:
    asked = UsageClock(context.clock.now_ms(), context.stale_ms)
    return answer(await session_for(context.pool, Scope(key.project_id, key.mode), sid, asked))


def answer(found: msgspec.Struct) -> Response[bytes]:
    """As JSON, not to be kept by anything in between."""
    return Response(msgspec.json.encode(found), media_type="application/json", headers={"cache-control": "no-store"})
