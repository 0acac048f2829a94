"""Create the demo project at the first start, and check whether the portal has an account."""

from datetime import UTC, datetime

from shared.accounts.queries import accounts as account_queries
from shared.accounts.service import COMMAND_LINE, record
from shared.infra.postgres.pool import connect
from shared.infra.settings import DatabaseUrl
from shared.models.projects import CreatedProject
from shared.projects import queries as project_queries
from shared.projects import service as projects

_DEMO = "demo"


async def any_account(database: DatabaseUrl) -> bool:
    """Return whether the portal has an account."""
    conn = await connect(database, "relay up")
    try:
        return await account_queries.any_account(conn)
    finally:
        await conn.close()


async def create_demo_project(database: DatabaseUrl) -> CreatedProject | None:
    """Create the project `demo` with its keys. Return None if any project exists, even an archived one."""
    now = datetime.now(UTC)
    conn = await connect(database, "relay up")
    try:
        if await project_queries.list_projects(conn, archived=True):
            return None
        async with conn.transaction():
            created = await projects.create_project(conn, _DEMO, now, created_by="cli")
            await record(conn, COMMAND_LINE, "project_created", now, project_id=created.project_id, target=_DEMO)
    finally:
        await conn.close()
    return created
