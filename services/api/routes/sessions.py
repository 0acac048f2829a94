"""`GET /v1/sessions`: who was connected, when, and what of it is billed."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from services.api.context import Context
from services.api.cursors import Cursor
from services.api.openapi import described
from services.api.sessions import DEFAULT_LIMIT, MAX_LIMIT, session_for, sessions_for
from shared.models.listings import SessionStatus
from shared.models.names import Timestamp
from shared.models.projects import KeyRecord
from shared.models.scope import Scope
from shared.models.sessions import ListedSession, SessionsAnswer
from shared.models.usage_ranges import UsageClock

# What a listing may be asked for: LiveKit's own tokens may name people and rooms as they like.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512, description="Only those of exactly this name.")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="At most this many; a page may hold fewer.")]

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
    room: FromQuery[Name | None] = None,
    identity: FromQuery[Name | None] = None,
    kind: FromQuery[Name | None] = None,
    status: FromQuery[Annotated[SessionStatus, msgspec.Meta(description="Without it both.")] | None] = None,
    since: Annotated[Timestamp | None, QueryParameter(name="from")] = None,
    to: FromQuery[Timestamp | None] = None,
    limit: FromQuery[Limit] = DEFAULT_LIMIT,
    cursor: FromQuery[Cursor | None] = None,
) -> Response[bytes]:
    asked = UsageClock(context.clock.now_ms(), context.stale_ms)
    scope = Scope(key.project_id, key.mode)
    found = await sessions_for(context.pool, scope, request.query_params.dict(), asked)
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
