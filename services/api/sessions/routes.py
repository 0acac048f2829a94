"""List and show the sessions behind the usage: `GET /v1/sessions`."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from services.api.http.openapi import described
from services.api.http.requests import uncached_json
from services.api.sessions.schemas import ListedSession, SessionsAnswer, SessionsQuery, Sid
from services.api.sessions.service import session_for, sessions_for
from shared.infra.postgres.pool import Pool
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock


@get(
    "/sessions",
    operation_id="listSessions",
    tags=["usage"],
    summary="List sessions",
    description=(
        "Newest start first. A session belongs to one participant sid: a reconnect is a new session. `from` and `to` select"
        " by the start of a session."
    ),
    opt=described(errors=("invalid_cursor",), answers=SessionsAnswer),
)
async def list_sessions(
    pool: NamedDependency[Pool],
    project_scope: NamedDependency[Scope],
    usage_clock: NamedDependency[UsageClock],
    params: NamedDependency[SessionsQuery],
) -> Response[bytes]:
    return uncached_json(await sessions_for(pool, project_scope, params, usage_clock))


@get(
    "/sessions/{sid:str}",
    operation_id="getSession",
    tags=["usage"],
    summary="Get a session with its tracks",
    opt=described(errors=("session_not_found",), answers=ListedSession),
)
async def get_session(
    pool: NamedDependency[Pool],
    project_scope: NamedDependency[Scope],
    usage_clock: NamedDependency[UsageClock],
    sid: FromPath[Sid],
) -> Response[bytes]:
    return uncached_json(await session_for(pool, project_scope, sid, usage_clock))
